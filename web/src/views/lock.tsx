/** Asks for the API key. */

import { useState } from "preact/hooks";
import { store } from "../store";
import { Dialog } from "./dialog";

export function Lock({ wrong }: { wrong: boolean }) {
  const [key, setKey] = useState("");
  const [busy, setBusy] = useState(false);
  return (
    <Dialog title="This server asks for a key" kind="lock">
      <form
        class="stack"
        onSubmit={async (event) => {
          event.preventDefault();
          setBusy(true);
          await store.unlock(key.trim());
          setBusy(false);
        }}
      >
        <p>Whoever runs it has the API key. It is kept until you close this tab, and goes to this server only.</p>
        <label class="field">
          <span>API key</span>
          <input
            type="password"
            autocomplete="off"
            required
            pattern="\s*[!-~]+\s*"
            title="Printable ASCII characters without blanks"
            value={key}
            aria-invalid={wrong && !busy}
            aria-describedby={wrong ? "lock-wrong" : undefined}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        </label>
        {wrong && !busy && (
          <p class="problem" id="lock-wrong" role="alert">
            That key was not accepted. Check it and try again.
          </p>
        )}
        <button type="submit" class="button primary" disabled={busy}>
          {busy ? "Checking…" : "Use this key"}
        </button>
      </form>
    </Dialog>
  );
}
