/** The button that goes from one colour theme to the next. */

import { useState } from "preact/hooks";
import { setTheme, type Theme, theme } from "../theme";
import { Icon } from "./icons";

const NEXT: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };

/** `describe` says the theme in words; `onChange` is told of the next one. */
export function ThemeButton({ describe, onChange }: { describe: (theme: Theme) => string; onChange?: (theme: Theme) => void }) {
  const [now, setNow] = useState(theme());
  const label = describe(now);
  return (
    <button
      type="button"
      class="button quiet square"
      aria-label={label}
      title={label}
      onClick={() => {
        setTheme(NEXT[now]);
        setNow(NEXT[now]);
        onChange?.(NEXT[now]);
      }}
    >
      <Icon name={now} />
    </button>
  );
}
