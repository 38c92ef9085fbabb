/**
 * What the machine looks up while it talks: one entry for each lookup, from question to answer.
 *
 * Pure. A lookup is open (`looking`) until it is answered, came back empty, failed or was given up;
 * an answered one becomes `told` when its reference reaches the model. Bounded to `MAX_LOOKUPS`.
 */

export type LookupState = "looking" | "answered" | "told" | "empty" | "failed" | "cancelled";

export interface Source {
  readonly title: string;
  readonly location: string;
}

export interface Lookup {
  readonly sequence: number;
  readonly state: LookupState;
  readonly startMs: number;
  readonly endMs?: number;
  readonly question?: string;
  readonly answer?: string;
  readonly label?: string;
  readonly reason?: string;
  readonly sources: readonly Source[];
}

export type LookupChange = Partial<Omit<Lookup, "sequence" | "startMs">>;

export const MAX_LOOKUPS = 100;

export function openLookup(
  lookups: readonly Lookup[],
  sequence: number,
  startMs: number,
  question?: string,
): readonly Lookup[] {
  const rest = lookups.filter((lookup) => lookup.sequence !== sequence);
  const opened: Lookup = {
    sequence,
    state: "looking",
    startMs,
    sources: [],
    ...(question ? { question } : {}),
  };
  return [...rest, opened].slice(-MAX_LOOKUPS);
}

/** Change one lookup; an unknown one is opened first, since a joined session may miss its start. */
export function changeLookup(
  lookups: readonly Lookup[],
  sequence: number,
  atMs: number,
  change: LookupChange,
): readonly Lookup[] {
  const known = lookups.some((lookup) => lookup.sequence === sequence);
  const all = known ? lookups : openLookup(lookups, sequence, atMs);
  return all.map((lookup) => (lookup.sequence === sequence ? { ...lookup, ...change } : lookup));
}

/** Whether any lookup is still open. */
export function isLooking(lookups: readonly Lookup[]): boolean {
  return lookups.some((lookup) => lookup.state === "looking");
}
