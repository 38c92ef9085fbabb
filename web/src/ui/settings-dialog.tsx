/** Choices for the next conversation: voice, microphone, who begins, and how sound travels. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { type InputDevice, listMicrophones } from "../audio/microphone";
import { isOpen } from "../conversation/machine";
import type { ModelInfo } from "../protocol/api";
import { change, type Settings, settings, token } from "../settings";
import { loadModel, model, talk } from "./context";
import { Dialog } from "./dialog";

export function SettingsDialog({ open, onClose }: { open: boolean; onClose: () => void }) {
  return (
    <Dialog title="Settings" open={open} onClose={onClose}>
      <Choices />
    </Dialog>
  );
}

function Choices() {
  const microphones = useSignal<InputDevice[]>([]);
  useEffect(() => {
    void loadModel();
    void listMicrophones().then((found) => {
      microphones.value = found;
    });
  }, [microphones]);
  const now = settings.value;
  const info = model.value;
  return (
    <div class="choices">
      {isOpen(talk.phase.value) && (
        <p class="remark">Changes count from the next conversation on.</p>
      )}
      {info && info.otherModels.length > 0 ? (
        <Select
          label="Model"
          value=""
          options={[
            ["", info.name],
            ...info.otherModels.map(({ name, url }) => [url, name] as const),
          ]}
          onChange={(url) => url && location.assign(url)}
        />
      ) : (
        <dl class="facts">
          <dt>Model</dt>
          <dd>{info?.name ?? "unknown"}</dd>
        </dl>
      )}
      {info && info.voices.length > 0 && (
        <Select
          label="Voice"
          value={now.voice}
          options={[
            ["", "The model's own"],
            ...info.voices.map((voice) => [voice, voice] as const),
          ]}
          onChange={(voice) => change({ voice })}
        />
      )}
      <Select
        label="Who begins"
        value={now.speaker}
        options={[
          ["model", "Duologue"],
          ["user", "You"],
        ]}
        onChange={(speaker) => change({ speaker: speaker as Settings["speaker"] })}
      />
      <Select
        label="Microphone"
        value={now.microphone}
        options={[
          ["", "The browser's choice"],
          ...microphones.value.map((m) => [m.id, m.name] as const),
        ]}
        onChange={(microphone) => change({ microphone })}
      />
      <Select
        label="Sound on the way"
        value={now.audio}
        options={[
          ["auto", "Opus if the browser can, else plain"],
          ["opus", "Opus, 32 kbit/s"],
          ["pcm16", "Plain samples, 384 kbit/s"],
        ]}
        onChange={(audio) => change({ audio: audio as Settings["audio"] })}
      />
      {info && info.backends.length > 1 && (
        <Select
          label="Whom to ask for facts"
          value={now.backend}
          options={[["", info.defaultBackend], ...others(info)]}
          onChange={(backend) => change({ backend })}
        />
      )}
      {info?.takesPrompts && (
        <label class="field">
          <span>Role</span>
          <textarea
            rows={3}
            maxLength={2000}
            value={now.prompt}
            placeholder="You are a patient teacher of astronomy."
            onChange={(event) => change({ prompt: event.currentTarget.value })}
          />
        </label>
      )}
      <label class="field">
        <span>Token, if the server asks for one</span>
        <input
          type="password"
          autocomplete="off"
          spellcheck={false}
          value={token.value}
          onChange={(event) => {
            token.value = event.currentTarget.value.trim();
            void loadModel();
          }}
        />
      </label>
    </div>
  );
}

function others(info: ModelInfo): (readonly [string, string])[] {
  return info.backends
    .filter((backend) => backend !== info.defaultBackend)
    .map((backend) => [backend, backend] as const);
}

interface SelectProps {
  label: string;
  value: string;
  options: readonly (readonly [string, string])[];
  onChange: (value: string) => void;
}

function Select({ label, value, options, onChange }: SelectProps) {
  return (
    <label class="field">
      <span>{label}</span>
      <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {options.map(([id, name]) => (
          <option key={id} value={id}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}
