/**
 * The conversation that the welcome page draws: made up, silent, and the same for everybody.
 *
 * Syllables become bumps of loudness by a fixed rule; the time line repeats for ever.
 */

import { LaneLevels, LEVEL_MS, type Stretch } from "../audio/levels";
import type { Lookup } from "../conversation/lookups";
import type { Role, Turn } from "../conversation/transcript";
import type { ScoreSource } from "./score";

interface Line {
  role: Role;
  startMs: number;
  text: string;
  cutOff?: boolean;
}

const LINES: readonly Line[] = [
  { role: "user", startMs: 700, text: "What is the capital of Peru?" },
  {
    role: "model",
    startMs: 2700,
    text: "Let me look\u2026 it is Lima, down by the Pacific, and",
    cutOff: true,
  },
  { role: "user", startMs: 5250, text: "Wait, what do they pay with?" },
  { role: "model", startMs: 7350, text: "The sol. One sol is a hundred c\u00e9ntimos." },
  { role: "user", startMs: 10900, text: "Lovely. Thanks!" },
  { role: "model", startMs: 12400, text: "Any time." },
];
const LOOKUPS: readonly Lookup[] = [
  { sequence: 0, state: "told", startMs: 3150, endMs: 4150, sources: [] },
  { sequence: 1, state: "told", startMs: 7500, endMs: 8200, sources: [] },
];
const LOOP_MS = 14_400;
const SYLLABLE_MS = { user: 165, model: 205 };
const REPEATS = 3;
/** Where the picture starts, so that the first thing seen is an interruption. */
const OPENING_MS = LOOP_MS + 8_000;
const SLOWNESS = 0.3;

/** A number between 0 and 1 that always comes out the same for `n`. */
function noise(n: number): number {
  const x = Math.sin(n * 127.1 + 11.7) * 43758.5453;
  return x - Math.floor(x);
}

function syllables(word: string): number {
  return Math.max(1, (word.toLowerCase().match(/[aeiouy\u00e9]+/g) ?? []).length);
}

function durationOf(line: Line): number {
  const words = line.text.split(" ");
  return words.reduce((ms, word) => ms + syllables(word) * SYLLABLE_MS[line.role] + 45, 0);
}

function paint(levels: LaneLevels, line: Line, offsetMs: number): void {
  let at = line.startMs;
  let seed = line.startMs;
  for (const word of line.text.split(" ")) {
    for (let s = 0; s < syllables(word); s++) {
      const height = 0.05 + 0.42 * noise(seed++);
      const length = SYLLABLE_MS[line.role] * (0.8 + 0.5 * noise(seed++));
      const peaks: number[] = [];
      for (let t = 0; t < length; t += LEVEL_MS) {
        peaks.push(height * Math.sin((Math.PI * (t + LEVEL_MS / 2)) / (length + LEVEL_MS)) ** 1.5);
      }
      levels.write(peaks, offsetMs + at + peaks.length * LEVEL_MS);
      at += SYLLABLE_MS[line.role];
    }
    at += 45;
  }
}

function overlap(): Stretch[] {
  const found: Stretch[] = [];
  LINES.forEach((line, i) => {
    const before = LINES[i - 1];
    if (!before) return;
    const endMs = before.startMs + durationOf(before);
    if (endMs - line.startMs > 200) found.push({ startMs: line.startMs, endMs });
  });
  return found;
}

/** The endless demonstration; `clock` gives the time since the page opened. */
export function demoScore(clock: () => number): ScoreSource {
  const levels = { user: new LaneLevels(), model: new LaneLevels() };
  const turns: Turn[] = [];
  const lookups: Lookup[] = [];
  const together: Stretch[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    const offset = repeat * LOOP_MS;
    LINES.forEach((line, i) => {
      paint(levels[line.role], line, offset);
      turns.push({
        id: repeat * LINES.length + i,
        role: line.role,
        startMs: offset + line.startMs,
        endMs: offset + line.startMs + durationOf(line),
        text: line.text,
        over: false,
        cutOff: line.cutOff ?? false,
        marks: [],
      });
    });
    for (const lookup of LOOKUPS) {
      lookups.push({
        ...lookup,
        startMs: offset + lookup.startMs,
        endMs: offset + (lookup.endMs ?? 0),
      });
    }
    for (const { startMs, endMs } of overlap())
      together.push({ startMs: offset + startMs, endMs: offset + endMs });
  }
  return {
    levels,
    ticks: false,
    nowMs: () => LOOP_MS + ((OPENING_MS - LOOP_MS + clock() * SLOWNESS) % LOOP_MS),
    turns: () => turns,
    lookups: () => lookups,
    numberOf: (index) => 1 + (index % LOOKUPS.length),
    together: () => together,
  };
}
