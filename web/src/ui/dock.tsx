/** The controls of a conversation: mute, interrupt, a synthetic voice, the end. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { QUESTIONS } from "../questions";
import { talk } from "./context";
import { Icon } from "./icons";

const REASONS: Readonly<Record<string, string>> = {
  "mic-denied": "The microphone is blocked. Allow it beside the address, then try again.",
  "mic-missing": "No microphone was found.",
  "mic-busy": "Another program holds the microphone.",
};

export function Dock() {
  const live = talk.phase.value.name === "live";
  return (
    <div class="dock" role="toolbar" aria-label="Conversation">
      {talk.hasMicrophone.value ? <Mute /> : <AddMicrophone />}
      <button
        type="button"
        class="control"
        disabled={!live}
        aria-keyshortcuts="I"
        onClick={() => talk.interrupt()}
      >
        <Icon name="interrupt" />
        <span>Interrupt</span>
        <kbd>I</kbd>
      </button>
      <Ask disabled={!live} />
      <button type="button" class="control end" aria-keyshortcuts="E" onClick={() => talk.stop()}>
        <Icon name="stop" />
        <span>End</span>
        <kbd>E</kbd>
      </button>
    </div>
  );
}

function Mute() {
  const muted = talk.muted.value;
  return (
    <button
      type="button"
      class={`control mute${muted ? " on" : ""}`}
      aria-pressed={muted}
      aria-keyshortcuts="M"
      onClick={() => talk.setMuted(!muted)}
    >
      <Icon name={muted ? "muted" : "microphone"} />
      <span>{muted ? "Muted" : "Mute"}</span>
      <kbd>M</kbd>
    </button>
  );
}

function AddMicrophone() {
  const reason = useSignal("");
  const add = async () => {
    const problem = await talk.addMicrophone();
    reason.value = problem ? (REASONS[problem.kind] ?? "It could not be opened.") : "";
  };
  return (
    <>
      <button type="button" class="control" onClick={() => void add()}>
        <Icon name="microphone" />
        <span>Use microphone</span>
      </button>
      {reason.value && (
        <p class="dock-note" role="alert">
          {reason.value}
        </p>
      )}
    </>
  );
}

/** A menu of sample questions; Escape and a click elsewhere close it. */
function Ask({ disabled }: { disabled: boolean }) {
  const open = useSignal(false);
  const box = useRef<HTMLDivElement>(null);
  const playing = talk.question.value;
  useEffect(() => {
    const close = (event: Event) => {
      const away =
        event instanceof KeyboardEvent
          ? event.key === "Escape"
          : !box.current?.contains(event.target as Node);
      if (away) open.value = false;
    };
    document.addEventListener("pointerdown", close);
    document.addEventListener("keydown", close);
    return () => {
      document.removeEventListener("pointerdown", close);
      document.removeEventListener("keydown", close);
    };
  }, [open]);
  return (
    <div class="ask" ref={box}>
      <button
        type="button"
        class={`control${playing ? " on" : ""}`}
        disabled={disabled}
        aria-expanded={open.value}
        onClick={() => {
          open.value = !open.value;
        }}
      >
        <Icon name="ask" />
        <span>{playing ? "Asking\u2026" : "Ask for me"}</span>
      </button>
      {open.value && (
        <div class="ask-menu">
          <p>A synthetic voice asks:</p>
          <ul>
            {QUESTIONS.map((question, i) => (
              <li key={question.file}>
                <button
                  type="button"
                  onClick={() => {
                    talk.ask(question);
                    open.value = false;
                  }}
                >
                  <kbd>{i + 1}</kbd>
                  {question.text}
                </button>
              </li>
            ))}
          </ul>
        </div>
      )}
    </div>
  );
}
