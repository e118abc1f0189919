/** Photographs with the camera of this machine. */

import { useEffect, useRef, useState } from "preact/hooks";
import { store } from "../store";
import { Dialog } from "./dialog";
import { Icon } from "./icons";

/** Browsers give the camera only to pages from https or localhost; elsewhere a phone's own camera app can be asked. */
export const hasCamera = (): boolean => window.isSecureContext && "mediaDevices" in navigator;

const REASONS: Record<string, string> = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it in the address bar, then try again.",
  NotFoundError: "There is no camera on this machine. Choose a photo instead.",
  NotReadableError: "Another program is using the camera. Close it, then try again.",
};

export function Camera() {
  const video = useRef<HTMLVideoElement>(null);
  const [facing, setFacing] = useState<"environment" | "user">("environment");
  const [several, setSeveral] = useState(false);
  const [problem, setProblem] = useState("");
  const [ready, setReady] = useState(false);
  const [attempt, setAttempt] = useState(0);
  const [taken, setTaken] = useState(0);

  useEffect(() => {
    let stream: MediaStream | null = null;
    let over = false;
    setReady(false);
    setProblem("");
    void (async () => {
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, width: { ideal: 1920 } } });
        if (over) return stop(stream);
        const element = video.current!;
        element.srcObject = stream;
        await element.play();
        setReady(true);
        const devices = await navigator.mediaDevices.enumerateDevices();
        setSeveral(devices.filter((device) => device.kind === "videoinput").length > 1);
      } catch (error) {
        const name = error instanceof Error ? error.name : "";
        if (!over) setProblem(REASONS[name] ?? `The camera does not start (${String(error)}).`);
      }
    })();
    return () => {
      over = true;
      if (stream) stop(stream);
    };
  }, [facing, attempt]);

  const shoot = () => {
    const element = video.current!;
    const canvas = document.createElement("canvas");
    canvas.width = element.videoWidth;
    canvas.height = element.videoHeight;
    canvas.getContext("2d")!.drawImage(element, 0, 0);
    canvas.toBlob(
      (blob) => {
        if (!blob) return;
        const name = `camera-${new Date().toTimeString().slice(0, 8).replaceAll(":", "-")}.jpg`;
        store.add({ found: [{ file: new File([blob], name, { type: "image/jpeg" }), name }], leftOut: 0 });
        setTaken((count) => count + 1);
      },
      "image/jpeg",
      0.92,
    );
  };

  return (
    <Dialog title="Take a photo" kind="camera" onClose={() => store.set({ camera: false })}>
      <div class={`viewfinder ${facing === "user" ? "mirrored" : ""}`}>
        <video ref={video} playsInline muted aria-label="Camera preview" />
        {!ready && !problem && <p class="viewfinder-text">Starting the camera…</p>}
        {problem && (
          <p class="viewfinder-text" role="alert">
            {problem}
          </p>
        )}
      </div>
      <div class="row">
        {problem ? (
          <button type="button" class="button primary" onClick={() => setAttempt((count) => count + 1)}>
            <Icon name="again" /> Try again
          </button>
        ) : (
          <button type="button" class="button primary" disabled={!ready} onClick={shoot}>
            <Icon name="camera" /> Take photo
          </button>
        )}
        {several && (
          <button type="button" class="button" onClick={() => setFacing(facing === "user" ? "environment" : "user")}>
            <Icon name="flip" /> {facing === "user" ? "Back camera" : "Front camera"}
          </button>
        )}
        {taken > 0 && (
          <button type="button" class="button" onClick={() => store.set({ camera: false })}>
            Show {taken === 1 ? "it" : `all ${taken}`}
          </button>
        )}
        <span class="soft" role="status">
          {taken > 0 && `${taken} taken`}
        </span>
      </div>
    </Dialog>
  );
}

function stop(stream: MediaStream): void {
  for (const track of stream.getTracks()) track.stop();
}
