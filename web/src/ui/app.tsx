/** The page: one of three scenes (welcome, stage, curtain) under one header. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { isOpen } from "../conversation/machine";
import { QUESTIONS } from "../questions";
import { Announcer } from "./announcer";
import { loadModel, talk } from "./context";
import { Curtain } from "./curtain";
import { Header } from "./header";
import { KnowledgeDialog } from "./knowledge";
import { SettingsDialog } from "./settings-dialog";
import { Stage } from "./stage";
import { Welcome } from "./welcome";

export type DialogName = "knowledge" | "settings" | "";

export function App() {
  const dialog = useSignal<DialogName>("");
  const phase = talk.phase.value;

  useEffect(() => {
    void loadModel();
    document.addEventListener("keydown", onKey);
    // A reload must not keep a seat taken on the server.
    const leave = () => talk.stop();
    window.addEventListener("pagehide", leave);
    return () => {
      document.removeEventListener("keydown", onKey);
      window.removeEventListener("pagehide", leave);
    };
  }, []);

  const sceneName = isOpen(phase) ? "stage" : phase.name === "ended" ? "curtain" : "welcome";
  const shown = useRef(sceneName);
  useEffect(() => {
    if (shown.current === sceneName) return;
    shown.current = sceneName;
    // The button that had the focus is gone; the keyboard goes on from the new scene's top.
    document.querySelector<HTMLElement>("main")?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [sceneName]);

  const scene = { stage: <Stage />, curtain: <Curtain />, welcome: <Welcome /> }[sceneName];
  return (
    <div class="page" data-phase={phase.name}>
      <Header
        onOpen={(name) => {
          dialog.value = name;
        }}
      />
      {scene}
      <KnowledgeDialog open={dialog.value === "knowledge"} onClose={() => (dialog.value = "")} />
      <SettingsDialog open={dialog.value === "settings"} onClose={() => (dialog.value = "")} />
      <Announcer />
    </div>
  );
}

/** Enter begins; M, I, E and the numbers of the sample questions work in a conversation. */
function onKey(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.target instanceof Element && event.target.closest("input, textarea, select")) return;
  const key = event.key.toLowerCase();
  if (!isOpen(talk.phase.value)) {
    if (key === "enter" && document.activeElement?.matches("body, main")) void talk.start();
    return;
  }
  const question = QUESTIONS[Number.parseInt(key, 10) - 1];
  if (question) talk.ask(question);
  else if (key === "m" && talk.hasMicrophone.value) talk.setMuted(!talk.muted.value);
  else if (key === "i") talk.interrupt();
  else if (key === "e") talk.stop();
  else return;
  event.preventDefault();
}
