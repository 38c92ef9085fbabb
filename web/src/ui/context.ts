/** The one visit, server and set of choices that the whole page is about. */

import { signal } from "@preact/signals";
import { Talk } from "../conversation/talk";
import { Api, ApiError, type ModelInfo } from "../protocol/api";
import { type Settings, settings, token } from "../settings";

export const api = new Api(document.baseURI, () => token.value);
export const talk = new Talk(api, choices);

/** What the server says about its model; undefined until it has answered. */
export const model = signal<ModelInfo | undefined>(undefined);

/** Ask the server what it has; a page that may not know shows less and works on. */
export async function loadModel(): Promise<void> {
  try {
    model.value = await api.model();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
}

export const modelName = (): string => model.value?.name || "duologue";

/** The visitor's choices, without those that this server does not have. */
function choices(): Settings & { token: string } {
  const now = settings.value;
  const info = model.value;
  return {
    ...now,
    token: token.value,
    voice: info?.voices.includes(now.voice) ? now.voice : "",
    backend: info?.backends.includes(now.backend) ? now.backend : "",
    prompt: info?.takesPrompts ? now.prompt : "",
  };
}

/** Names in the script: a model's own name would be jargon there. */
export const MODEL_SPEAKER = "Duologue";
