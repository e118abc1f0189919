/** The buttons to add photos. */

import { useRef } from "preact/hooks";
import { chosen } from "../files";
import { store } from "../store";
import { hasCamera } from "./camera";
import { Icon } from "./icons";

const ACCEPT = "image/*,.tif,.tiff,.avif,.heic,.heif,.jp2,.ppm,.tga";

export function Sources({ prominent = false }: { prominent?: boolean }) {
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const shot = useRef<HTMLInputElement>(null);
  const take = (event: { currentTarget: HTMLInputElement }) => {
    store.add(chosen(event.currentTarget.files));
    // So that the same photo can be chosen again.
    event.currentTarget.value = "";
  };
  // Phones have no folders to choose; elsewhere the attribute makes the dialog one for folders.
  const folders = "webkitdirectory" in HTMLInputElement.prototype && !matchMedia("(pointer: coarse)").matches;
  return (
    <div class={prominent ? "row centred" : "row"}>
      <input ref={files} type="file" hidden multiple accept={ACCEPT} data-source="files" onChange={take} />
      <input
        ref={(input) => {
          folder.current = input;
          if (input) input.webkitdirectory = true;
        }}
        type="file"
        hidden
        multiple
        data-source="folder"
        onChange={take}
      />
      <input ref={shot} type="file" hidden accept="image/*" capture="environment" data-source="camera" onChange={take} />
      <button type="button" class={prominent ? "button primary large" : "button primary"} onClick={() => files.current!.click()}>
        <Icon name="photos" /> {prominent ? "Choose photos" : "Add photos"}
      </button>
      {folders && (
        <button type="button" class={prominent ? "button large" : "button"} onClick={() => folder.current!.click()}>
          <Icon name="folder" /> <span class="label">{prominent ? "Choose a folder" : "Folder"}</span>
        </button>
      )}
      <button
        type="button"
        class={prominent ? "button large" : "button"}
        onClick={() => (hasCamera() ? store.set({ camera: true }) : shot.current!.click())}
      >
        <Icon name="camera" /> <span class="label">{prominent ? "Take a photo" : "Camera"}</span>
      </button>
    </div>
  );
}
