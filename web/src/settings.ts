/** What a visitor chose, kept in the browser; the token only for this tab. */

import { effect, signal } from "@preact/signals";

export type Theme = "auto" | "light" | "dark";

export interface Settings {
  theme: Theme;
  voice: string;
  microphone: string;
  audio: "auto" | "opus" | "pcm16";
  speaker: "model" | "user";
  prompt: string;
  backend: string;
}

const KEY = "duologue.settings";
const TOKEN_KEY = "duologue.token";
const DEFAULTS: Settings = {
  theme: "auto",
  voice: "",
  microphone: "",
  audio: "auto",
  speaker: "model",
  prompt: "",
  backend: "",
};

export const settings = signal<Settings>(load());
export const token = signal(loadToken());

export function change(changes: Partial<Settings>): void {
  settings.value = { ...settings.value, ...changes };
}

effect(() => {
  store(() => localStorage.setItem(KEY, JSON.stringify(settings.value)));
  const { theme } = settings.value;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
});

effect(() => {
  store(() => sessionStorage.setItem(TOKEN_KEY, token.value));
});

function load(): Settings {
  let stored: Partial<Settings> = {};
  store(() => {
    stored = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Settings>;
  });
  return { ...DEFAULTS, ...stored };
}

/** A token in the address is taken over and removed from it, so that it is not shared by accident. */
function loadToken(): string {
  const url = new URL(location.href);
  const given =
    url.searchParams.get("token") ?? new URLSearchParams(url.hash.slice(1)).get("token");
  if (given) {
    url.searchParams.delete("token");
    url.hash = "";
    history.replaceState(null, "", url);
    return given;
  }
  let kept = "";
  store(() => {
    kept = sessionStorage.getItem(TOKEN_KEY) ?? "";
  });
  return kept;
}

/** Private windows may forbid storage; the page works without. */
function store(action: () => void): void {
  try {
    action();
  } catch {
    // Nothing is kept then.
  }
}
