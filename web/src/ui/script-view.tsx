/** The transcript, set like the script of a play: who, what, and directions in italics. */

import { Fragment } from "preact";
import type { Turn } from "../conversation/transcript";
import { MODEL_SPEAKER, talk } from "./context";

export function ScriptView() {
  const { turns, forgotten } = talk.chronicle.script.value;
  const shown = turns.filter((turn) => turn.text.trim() !== "" || turn.marks.length > 0);
  return (
    <section class="script" aria-label="Script">
      {forgotten > 0 && <p class="direction">({forgotten} earlier lines are not shown)</p>}
      {shown.length === 0 && <p class="direction">{opening()}</p>}
      {shown.map((turn) => (
        <Line key={turn.id} turn={turn} />
      ))}
    </section>
  );
}

function opening(): string {
  if (talk.hasMicrophone.value) return "(It is listening. Say something.)";
  return "(No microphone is on. Let a synthetic voice ask, or turn yours on below.)";
}

function Line({ turn }: { turn: Turn }) {
  const name = turn.role === "user" ? "You" : MODEL_SPEAKER;
  return (
    <div class={`line ${turn.role}`}>
      <p class="speaker">{name}</p>
      <p class="words">
        {turn.over && <em class="direction">(over {MODEL_SPEAKER}) </em>}
        <Words turn={turn} />
        {turn.cutOff && (
          <span class="cut" title="Interrupted here">
            {"\u2014"}
          </span>
        )}
      </p>
    </div>
  );
}

/** The text with a small number wherever something was looked up. */
function Words({ turn }: { turn: Turn }) {
  const numbers = new Map(
    talk.chronicle.lookups.value.map((lookup, i) => [lookup.sequence, i + 1]),
  );
  let from = 0;
  const parts = turn.marks.map(({ sequence, at }) => {
    const text = turn.text.slice(from, at);
    from = at;
    const number = numbers.get(sequence);
    return (
      <Fragment key={sequence}>
        {text}
        {number !== undefined && (
          <sup>
            <a href={`#lookup-${number}`} aria-label={`Lookup ${number}`}>
              {number}
            </a>
          </sup>
        )}
      </Fragment>
    );
  });
  return (
    <>
      {parts}
      {turn.text.slice(from)}
    </>
  );
}
