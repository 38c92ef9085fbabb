/** The margin: what was looked up, numbered as in the script, with answer and source. */

import type { Lookup, Source } from "../conversation/lookups";
import { talk } from "./context";

export function Margin() {
  const lookups = talk.chronicle.lookups.value;
  return (
    <aside class="margin" aria-label="Looked up">
      <h2>Looked up</h2>
      {lookups.length === 0 ? (
        <p class="empty">
          Nothing yet. When a fact is needed, the question and what was found stand here.
        </p>
      ) : (
        <ol>
          {lookups
            .map((lookup, i) => <Note key={lookup.sequence} lookup={lookup} number={i + 1} />)
            .toReversed()}
        </ol>
      )}
    </aside>
  );
}

function Note({ lookup, number }: { lookup: Lookup; number: number }) {
  const found = lookup.state === "answered" || lookup.state === "told";
  return (
    <li class={`note ${lookup.state}`} id={`lookup-${number}`} value={number}>
      <span class="number" aria-hidden="true">
        {number}
      </span>
      {lookup.question && <p class="asked">{lookup.question}</p>}
      {lookup.state === "looking" && (
        <p class="state">
          Looking it up
          <span class="thread" aria-hidden="true" />
        </p>
      )}
      {found && <p class="answer">{lookup.answer}</p>}
      {found && <Found lookup={lookup} />}
      {!found && lookup.state !== "looking" && <p class="state">{without(lookup)}</p>}
    </li>
  );
}

function Found({ lookup }: { lookup: Lookup }) {
  const took =
    lookup.endMs === undefined ? "" : `${((lookup.endMs - lookup.startMs) / 1000).toFixed(1)} s`;
  return (
    <p class="source">
      {lookup.sources.map((source, i) => (
        <span key={i}>
          <SourceName source={source} />
        </span>
      ))}
      {lookup.sources.length === 0 && lookup.label && <span>{lookup.label}</span>}
      <span class="took">{took}</span>
    </p>
  );
}

/** A link only where it leads to the web: a source is text from outside. */
function SourceName({ source }: { source: Source }) {
  const name = source.title || source.location;
  if (!/^https?:\/\//i.test(source.location)) return <>{name}</>;
  return (
    <a href={source.location} target="_blank" rel="noreferrer noopener">
      {name}
    </a>
  );
}

function without(lookup: Lookup): string {
  if (lookup.state === "empty") return "Nothing was found.";
  if (lookup.state === "cancelled") return "Given up, for the talk went on.";
  return `It failed${lookup.reason ? `: ${lookup.reason}` : ""}.`;
}
