/** The server's HTTP routes. Every call has a deadline; every failure is an `ApiError`. */

import { number, string } from "./events";
import type { Json } from "./wire";

const DEADLINE_MS = 10_000;
const UPLOAD_DEADLINE_MS = 120_000;

export class ApiError extends Error {
  constructor(
    /** HTTP status, or 0 when there was no answer. */
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterMs = 0,
  ) {
    super(message);
  }
}

export type Availability =
  { available: true } | { available: false; reason: string; retryAfterMs: number };

export interface ModelInfo {
  name: string;
  /** Those of other servers, and where. */
  otherModels: { name: string; url: string }[];
  takesPrompts: boolean;
  voices: string[];
  backends: string[];
  defaultBackend: string;
  /** How sound may travel, by the server's names. */
  audio: string[];
}

export interface KnowledgeDocument {
  id: string;
  name: string;
  bytes: number;
  passages: number;
}

export interface Knowledge {
  documents: KnowledgeDocument[];
  passages: number;
  /** Endings of the files that can be read, each with its dot. */
  kinds: string[];
}

export interface Hit {
  text: string;
  heading: string;
  title: string;
}

export class Api {
  constructor(
    private readonly page: string,
    private readonly token: () => string,
  ) {}

  async availability(): Promise<Availability> {
    const values = await this.json("api/availability");
    if (values.available !== false) return { available: true };
    return {
      available: false,
      reason: string(values.reason),
      retryAfterMs: 1000 * Math.max(1, number(values.retry_after_s)),
    };
  }

  async model(): Promise<ModelInfo> {
    return modelInfo(await this.json("api/models"));
  }

  async knowledge(): Promise<Knowledge> {
    const values = await this.json("api/knowledge");
    const documents = list(values.documents).map((item) => ({
      id: string(item.id),
      name: string(item.name) || string(item.id),
      bytes: number(item.bytes),
      passages: number(item.passages),
    }));
    const limits = (values.limits ?? {}) as Json;
    const kinds = strings(limits.kinds);
    return { documents, passages: number(values.passages), kinds };
  }

  async addKnowledge(name: string, body: Blob): Promise<void> {
    const path = `api/knowledge?name=${encodeURIComponent(name)}`;
    await this.request(path, { method: "POST", body }, UPLOAD_DEADLINE_MS);
  }

  async removeKnowledge(id: string): Promise<void> {
    await this.request(`api/knowledge/${encodeURIComponent(id)}`, { method: "DELETE" });
  }

  async searchKnowledge(query: string): Promise<Hit[]> {
    const values = await this.json("api/knowledge/search", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ query, k: 3 }),
    });
    return list(values.hits).map((hit) => ({
      text: string(hit.text),
      heading: string(hit.heading),
      title: string(hit.title),
    }));
  }

  private async json(path: string, init: RequestInit = {}): Promise<Json> {
    const response = await this.request(path, init);
    try {
      const value: unknown = await response.json();
      if (typeof value === "object" && value !== null) return value as Json;
    } catch {
      // Falls through: not JSON is as wrong as not an object.
    }
    throw new ApiError(response.status, "answer", "The server gave an answer that is not JSON.");
  }

  private async request(path: string, init: RequestInit, deadlineMs = DEADLINE_MS) {
    const headers = new Headers(init.headers);
    const token = this.token();
    if (token) headers.set("authorization", `Bearer ${token}`);
    let response: Response;
    try {
      response = await fetch(new URL(path, this.page), {
        ...init,
        headers,
        signal: AbortSignal.timeout(deadlineMs),
      });
    } catch {
      throw new ApiError(0, "unreachable", "The server does not answer.");
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function refusal(response: Response): Promise<ApiError> {
  const fallback = `The server answered ${response.status}.`;
  try {
    const { error } = (await response.json()) as { error?: Json };
    const wait = 1000 * number(error?.retry_after_s);
    return new ApiError(
      response.status,
      string(error?.code),
      string(error?.message) || fallback,
      wait,
    );
  } catch {
    return new ApiError(response.status, "", fallback);
  }
}

/** Read what `/api/models` tells. */
export function modelInfo(values: Json): ModelInfo {
  const models = list(values.models);
  const model = models.find((item) => item.current === true) ?? models[0] ?? {};
  return {
    name: string(model.id),
    otherModels: models.flatMap((item) => (item === model ? [] : otherModel(item))),
    takesPrompts: model.takes_prompts === true,
    voices: ids(values.voices),
    backends: ids(values.retrieval_backends),
    defaultBackend: string(values.retrieval_backend_default),
    audio: strings(values.audio),
  };
}

/** A model that another server serves; none if there is no page to go to. */
function otherModel(item: Json): { name: string; url: string }[] {
  const [name, url] = [string(item.id), string(item.url)];
  return name && /^https?:\/\//.test(url) ? [{ name, url }] : [];
}

function ids(value: unknown): string[] {
  return list(value)
    .map((item) => string(item.id))
    .filter((id) => id !== "");
}

function strings(value: unknown): string[] {
  return (Array.isArray(value) ? value : []).map(string);
}

function list(value: unknown): Json[] {
  if (!Array.isArray(value)) return [];
  return value.filter((item): item is Json => typeof item === "object" && item !== null);
}
