/** Line drawings of 24 × 24; each stands beside words or in a button with a name. */

const PATHS = {
  photos: "M4 5h16v14H4zM4 16l4.5-4.5 4 4L16 12l4 4M9 9.2h.01",
  folder: "M3 6.5h6l2 2.5h10v10H3z",
  camera: "M4 8h3.5L9 5.5h6L16.5 8H20v11H4zM12 16.5a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4z",
  flip: "M4 11a8 8 0 0 1 14-4.2M18 3v4h-4M20 13a8 8 0 0 1-14 4.2M6 21v-4h4",
  close: "M6 6l12 12M18 6L6 18",
  left: "M14.5 5.5L8 12l6.5 6.5",
  right: "M9.5 5.5L16 12l-6.5 6.5",
  table: "M4 5h16v14H4zM4 10h16M4 14.5h16M10 5v14",
  trash: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.5 10.5v5.5M13.5 10.5v5.5",
  pause: "M9 6v12M15 6v12",
  play: "M8 5.5v13l10.5-6.5z",
  again: "M5 12a7 7 0 1 0 2.2-5.1M5 4v4h4",
  alert: "M12 4L2.8 19.5h18.4zM12 10v4.5M12 17h.01",
  doubt: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9.4 9.6a2.7 2.7 0 1 1 3.9 2.4c-.9.5-1.3 1-1.3 2M12 16.8h.01",
  file: "M6 3.5h8l4 4.5v12.5H6zM14 3.5V8h4",
  auto: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  light: "M12 16.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  dark: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5L20.5 20.5",
  copy: "M8.5 8.5h11v11h-11zM15.5 8.5v-4h-11v11h4",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
      {name === "auto" && <path d="M12 3.5v17a8.5 8.5 0 0 0 0-17z" class="filled" />}
    </svg>
  );
}

export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect x="4" y="4" width="24" height="5.4" rx="2.7" />
      <rect x="7" y="11.6" width="18" height="5.4" rx="2.7" opacity=".8" />
      <rect x="10" y="19.2" width="12" height="5.4" rx="2.7" opacity=".6" />
      <rect x="13" y="26.4" width="6" height="3" rx="1.5" opacity=".45" />
    </svg>
  );
}
