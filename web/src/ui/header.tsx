/** The header: whose page this is, how the conversation goes, and what can be set. */

import type { Delay } from "../conversation/delay";
import { isOpen } from "../conversation/machine";
import { clockText } from "../conversation/transcript";
import { change, settings, type Theme } from "../settings";
import type { DialogName } from "./app";
import { talk } from "./context";
import { Icon, Mark } from "./icons";

const THEMES: readonly Theme[] = ["auto", "light", "dark"];

export function Header({ onOpen }: { onOpen: (name: DialogName) => void }) {
  const phase = talk.phase.value;
  const theme = settings.value.theme;
  const dark = theme === "dark" || (theme === "auto" && prefersDark());
  return (
    <header class="header">
      <button type="button" class="brand" onClick={() => talk.home()} aria-label="Duologue, home">
        <Mark />
        Duologue
      </button>
      {isOpen(phase) && <Progress />}
      <nav class="tools" aria-label="Tools">
        <button type="button" class="tool" onClick={() => onOpen("knowledge")}>
          <Icon name="book" />
          <span>Knowledge</span>
        </button>
        <button type="button" class="tool" onClick={() => onOpen("settings")}>
          <Icon name="sliders" />
          <span>Settings</span>
        </button>
        <button
          type="button"
          class="tool only-icon"
          aria-label={`Colours: ${theme}. Change`}
          onClick={() => change({ theme: following(theme) })}
        >
          <Icon name={dark ? "moon" : "sun"} />
        </button>
      </nav>
    </header>
  );
}

/** The other one first; the system's own choice comes round again. */
function following(theme: Theme): Theme {
  if (theme === "auto") return prefersDark() ? "light" : "dark";
  if (theme === "dark") return prefersDark() ? "auto" : "light";
  return prefersDark() ? "dark" : THEMES[0]!;
}

function prefersDark(): boolean {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function Progress() {
  const lost = talk.phase.value.name === "reconnecting";
  return (
    <div class="progress">
      <span class={`lamp${lost ? " lost" : ""}`} aria-hidden="true" />
      <span class="time">{clockText(talk.elapsedMs.value)}</span>
      <DelayMeter />
    </div>
  );
}

/** How long a word takes to come round, and what it is made of. */
function DelayMeter() {
  const delay = talk.delay.value;
  if (!delay) return null;
  const stats = talk.stats.value;
  return (
    <details class="delay">
      <summary>
        <b>{seconds(delay.totalMs)}</b>
        <span class="delay-name">there and back</span>
        <Bar delay={delay} />
      </summary>
      <dl class="delay-parts">
        <dt>One frame of your voice</dt>
        <dd>{Math.round(delay.captureMs)} ms</dd>
        <dt>The way there, thinking, the way back</dt>
        <dd>{Math.round(delay.roundTripMs)} ms</dd>
        <dt>Waiting to be played</dt>
        <dd>{Math.round(delay.playoutMs)} ms</dd>
        <dt>Your loudspeaker</dt>
        <dd>{Math.round(delay.deviceMs)} ms</dd>
        {stats && (
          <>
            <dt>The server's work for one frame (median, slowest of 100)</dt>
            <dd>
              {Math.round(stats.frameMsP50)} / {Math.round(stats.frameMsP99)} ms
            </dd>
          </>
        )}
        {talk.playout.value && talk.playout.value.gaps > 0 && (
          <>
            <dt>Gaps heard</dt>
            <dd>{talk.playout.value.gaps}</dd>
          </>
        )}
      </dl>
    </details>
  );
}

function Bar({ delay }: { delay: Delay }) {
  const parts = [delay.captureMs, delay.roundTripMs, delay.playoutMs, delay.deviceMs];
  return (
    <span class="delay-bar" aria-hidden="true">
      {parts.map((ms, i) => (
        <i key={i} style={{ width: `${Math.min(48, ms / 10)}px` }} />
      ))}
    </span>
  );
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}
