/** A modal dialog: the browser's own keeps the focus inside, closes on Escape and gives the focus back. */

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { Icon } from "./icons";

interface Props {
  title: string;
  kind: string;
  onClose?: (() => void) | undefined;
  /** What gets the focus in the end, if not what had it before. */
  returnTo?: () => HTMLElement | null;
  onKeyDown?: (event: KeyboardEvent) => void;
  tools?: ComponentChildren;
  children: ComponentChildren;
}

export function Dialog({ title, kind, onClose, onKeyDown, returnTo, tools, children }: Props) {
  const last = useRef(returnTo);
  last.current = returnTo;
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const element = dialog.current!;
    const opener = document.activeElement;
    element.showModal();
    return () => {
      element.close();
      const next = last.current?.() ?? opener;
      if (next instanceof HTMLElement && next.isConnected) next.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      class={`dialog ${kind}`}
      aria-labelledby={`${kind}-title`}
      onCancel={(event) => {
        event.preventDefault();
        onClose?.();
      }}
      onMouseDown={(event) => {
        // Outside of what it holds: on the backdrop.
        if (event.target === dialog.current) onClose?.();
      }}
      onKeyDown={onKeyDown}
    >
      <div class="dialog-body">
        <header class="dialog-head">
          <h2 id={`${kind}-title`}>{title}</h2>
          {tools}
          {onClose && (
            <button type="button" class="button quiet square" aria-label="Close" onClick={onClose}>
              <Icon name="close" />
            </button>
          )}
        </header>
        {children}
      </div>
    </dialog>
  );
}
