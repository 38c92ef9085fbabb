/**
 * The script of a conversation: who said what, when, over whom, and what was looked up.
 *
 * Pure: every function returns a new script. A turn that begins while the other side is still
 * audible is `over` it, and the turn it breaks into is `cutOff`. Bounded: the oldest turns are
 * forgotten beyond `MAX_TURNS`; `forgotten` counts them.
 */

export type Role = "user" | "model";

export interface Turn {
  readonly id: number;
  readonly role: Role;
  readonly startMs: number;
  readonly endMs: number;
  readonly text: string;
  /** Began while the other side was speaking. */
  readonly over: boolean;
  /** The other side broke into it. */
  readonly cutOff: boolean;
  /** Lookups that began in this turn, and after how many characters of it. */
  readonly marks: readonly { sequence: number; at: number }[];
}

export interface Script {
  readonly turns: readonly Turn[];
  readonly nextId: number;
  readonly forgotten: number;
}

export const MAX_TURNS = 400;
const MAX_TURN_CHARACTERS = 20_000;

export const EMPTY: Script = { turns: [], nextId: 0, forgotten: 0 };

export function lastTurn(script: Script): Turn | undefined {
  return script.turns.at(-1);
}

/** `role` takes the floor; `otherAudible` says whether the other side is heard at this moment. */
export function beginTurn(script: Script, role: Role, atMs: number, otherAudible: boolean): Script {
  const last = lastTurn(script);
  if (last?.role === role) return script;
  const turns = script.turns.slice();
  const over = otherAudible && last !== undefined && last.text.trim() !== "";
  if (over && last) turns[turns.length - 1] = { ...last, cutOff: last.role === "model" };
  turns.push({
    id: script.nextId,
    role,
    startMs: atMs,
    endMs: atMs,
    text: "",
    over: over && role === "user",
    cutOff: false,
    marks: [],
  });
  const surplus = Math.max(0, turns.length - MAX_TURNS);
  return {
    turns: turns.slice(surplus),
    nextId: script.nextId + 1,
    forgotten: script.forgotten + surplus,
  };
}

/**
 * Add a piece to the current turn of `role`, opening one if the other side had the floor. A turn that
 * holds nothing but the mark of a lookup is not yet the other side's: the last words of a question
 * are recognised after the model has begun to look it up.
 */
export function addText(script: Script, role: Role, text: string, atMs: number): Script {
  const last = lastTurn(script);
  const isMark = last !== undefined && last.text === "" && last.marks.length > 0;
  const late = isMark && last.role !== role && script.turns.at(-2)?.role === role;
  const opened = late || last?.role === role ? script : beginTurn(script, role, atMs, false);
  return change(opened, late ? -2 : -1, (turn) => ({
    ...turn,
    text: tidy(turn.text + text).slice(0, MAX_TURN_CHARACTERS),
    endMs: atMs,
  }));
}

/** Note that lookup `sequence` began here. */
export function addMark(script: Script, sequence: number, atMs: number): Script {
  const opened =
    lastTurn(script)?.role === "model" ? script : beginTurn(script, "model", atMs, false);
  return change(opened, -1, (turn) => ({
    ...turn,
    marks: [...turn.marks, { sequence, at: turn.text.length }],
  }));
}

/** Change one turn, counted from the end: -1 is the last. */
function change(script: Script, at: number, edit: (turn: Turn) => Turn): Script {
  const turn = script.turns.at(at);
  return turn ? { ...script, turns: script.turns.with(at, edit(turn)) } : script;
}

/** No leading or doubled white space: pieces carry their own, and some come alone. */
function tidy(text: string): string {
  return text.replace(/\s+/g, " ").replace(/^ /, "");
}

/** The script as plain text, for reading. */
export function toText(script: Script, modelName: string): string {
  const name = { user: "YOU", model: modelName.toUpperCase() };
  const width = Math.max(name.user.length, name.model.length) + 2;
  return script.turns
    .filter((turn) => turn.text.trim() !== "")
    .map((turn) => {
      const direction = turn.over ? `(over ${modelName}) ` : "";
      const dash = turn.cutOff ? "\u2014" : "";
      return `${clockText(turn.startMs)}  ${name[turn.role].padEnd(width)}${direction}${turn.text.trim()}${dash}\n`;
    })
    .join("");
}

/** 83,000 ms as `1:23`. */
export function clockText(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
