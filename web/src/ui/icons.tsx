/** The few signs of the page, drawn by hand: 20 units wide, 1.5 thick, in the colour of the text. */

const PATHS = {
  microphone:
    "M10 3a2.5 2.5 0 0 1 2.5 2.5v4a2.5 2.5 0 0 1-5 0v-4A2.5 2.5 0 0 1 10 3zM5 9.5a5 5 0 0 0 10 0M10 14.5V17",
  muted:
    "M12.5 8V5.5a2.5 2.5 0 0 0-4.6-1.3M7.5 8v1.5a2.5 2.5 0 0 0 4 2M5 9.5a5 5 0 0 0 8.2 3.8M15 9.5a5 5 0 0 1-.3 1.7M10 14.5V17M4 3.5l12 13",
  interrupt: "M4 10h5M12 5v10M16 5v10",
  play: "M6.5 4.5v11l9-5.5z",
  ask: "M3.5 10.5v-1M6.5 12.5v-5M9.5 15V5M12.5 12.5v-5M15.5 11V9",
  stop: "M5.5 5.5h9v9h-9z",
  download: "M10 3.5v9M6.5 9.5l3.5 3.5 3.5-3.5M4 16.5h12",
  book: "M10 5.5C8.5 4.3 6.3 4 3.5 4v11c2.8 0 5 .3 6.5 1.5C11.5 15.3 13.7 15 16.5 15V4c-2.8 0-5 .3-6.5 1.5zm0 0v11",
  sliders: "M3.5 6.5h7M14 6.5h2.5M3.5 13.5H6M9.5 13.5h7M12.25 4.7v3.6M7.75 11.7v3.6",
  sun: "M10 6.8a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 0 0 0-6.4zM10 2.5v1.5M10 16v1.5M2.5 10H4M16 10h1.5M4.7 4.7l1 1M14.3 14.3l1 1M15.3 4.7l-1 1M5.7 14.3l-1 1",
  moon: "M16 11.8A6.5 6.5 0 0 1 8.2 4a6.5 6.5 0 1 0 7.8 7.8z",
  close: "M5 5l10 10M15 5L5 15",
  bin: "M4.5 6h11M8 6V4h4v2M6 6l.7 10h6.6L14 6",
  up: "M10 16V5M6 8.5l4-4 4 4",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** Two voices, overlapping: the sign of the page. */
export function Mark() {
  return (
    <span class="mark" aria-hidden="true">
      <i />
      <i />
    </span>
  );
}
