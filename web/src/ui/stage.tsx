/** The conversation itself: score, script, margin with lookups, and the controls. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { clockText } from "../conversation/transcript";
import { talk } from "./context";
import { Dock } from "./dock";
import { Margin } from "./margin";
import type { ScoreSource } from "./score";
import { ScoreView } from "./score-view";
import { ScriptView } from "./script-view";

export function Stage() {
  const source = useMemo<ScoreSource>(
    () => ({
      levels: talk.chronicle.activity.levels,
      ticks: true,
      nowMs: () => talk.nowMs,
      turns: () => talk.chronicle.script.peek().turns,
      lookups: () => talk.chronicle.lookups.peek(),
      numberOf: (index) => index + 1,
      together: () => talk.chronicle.activity.together,
    }),
    [],
  );
  useWakeLock();
  return (
    <main class="stage" tabIndex={-1}>
      <h1 class="unseen">Conversation</h1>
      <ScoreView
        source={source}
        label="Two voices over time; the script below has the same in words."
      />
      <Lost />
      <Trouble />
      <div class="columns">
        <Follow>
          <ScriptView />
        </Follow>
        <Margin />
      </div>
      <Dock />
    </main>
  );
}

/** Keeps the newest words in sight, unless the reader has scrolled up to read. */
function Follow({ children }: { children: preact.ComponentChildren }) {
  const box = useRef<HTMLDivElement>(null);
  const script = talk.chronicle.script.value;
  const stuck = useRef(true);
  useEffect(() => {
    const element = box.current;
    if (element && stuck.current) element.scrollTop = element.scrollHeight;
  }, [script]);
  return (
    <div
      class="script-box"
      ref={box}
      onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
        stuck.current = scrollHeight - clientHeight - scrollTop < 60;
      }}
    >
      {children}
    </div>
  );
}

function Lost() {
  const phase = talk.phase.value;
  const [, tick] = useState(0);
  useEffect(() => {
    if (phase.name !== "reconnecting") return;
    const timer = setInterval(() => tick((n) => n + 1), 500);
    return () => clearInterval(timer);
  }, [phase.name]);
  if (phase.name !== "reconnecting") return null;
  const left = Math.max(0, phase.untilMs - Date.now());
  return (
    <div class="alarm" role="alert">
      <b>The connection was lost.</b> Trying to get back by itself; your conversation is kept for{" "}
      <span class="countdown">{clockText(left)}</span>.
    </div>
  );
}

const TROUBLE: Readonly<Record<string, string>> = {
  overrun: "The server is too slow for this just now: some of your words do not reach it.",
  stt_lost: "Your words are not being written down just now; it hears you all the same.",
};
const TROUBLE_MS = 6_000;

/** What the server has warned of, for as long as it is news. */
function Trouble() {
  const warning = talk.chronicle.warning.value;
  const text = TROUBLE[warning?.code ?? ""];
  const lasting = warning?.code === "stt_lost";
  if (!warning || !text || talk.phase.value.name !== "live") return null;
  if (!lasting && talk.elapsedMs.value - warning.atMs > TROUBLE_MS) return null;
  return (
    <div class="alarm" role="status">
      {text}
    </div>
  );
}

/** A phone that dims its screen would also stop listening. */
function useWakeLock(): void {
  useEffect(() => {
    let lock: WakeLockSentinel | undefined;
    let gone = false;
    const hold = async () => {
      if (document.visibilityState !== "visible") return;
      try {
        lock = await navigator.wakeLock?.request("screen");
        if (gone) await lock?.release();
      } catch {
        // A screen that may dim is no reason to stop.
      }
    };
    void hold();
    document.addEventListener("visibilitychange", hold);
    return () => {
      gone = true;
      document.removeEventListener("visibilitychange", hold);
      void lock?.release();
    };
  }, []);
}
