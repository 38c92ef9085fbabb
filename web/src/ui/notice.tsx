/** Clear words for everything that can stand in the way, and what to do about it. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Problem } from "../conversation/machine";
import { clockText } from "../conversation/transcript";
import { token } from "../settings";
import { loadModel, talk } from "./context";

export function Notice({ problem }: { problem: Problem }) {
  switch (problem.kind) {
    case "full":
      return <Full retryAtMs={problem.retryAtMs} />;
    case "token":
      return <TokenForm rejected={problem.rejected} />;
    case "insecure":
      return <Insecure />;
    case "mic-denied":
      return (
        <Card title="The microphone is blocked.">
          <p>
            Your browser does not let this page hear you. Click the sign to the left of the address,
            allow the microphone, and try again. Or let a synthetic voice ask, below.
          </p>
          <Again />
        </Card>
      );
    case "mic-missing":
      return (
        <Card title="There is no microphone.">
          <p>
            None is connected to this computer, or none that the browser may use. Plug one in and
            try again. Or let a synthetic voice ask, below.
          </p>
          <Again />
        </Card>
      );
    case "mic-busy":
      return (
        <Card title="The microphone is taken.">
          <p>
            Another program holds it, perhaps a call in another window. Close that and try again.
          </p>
          <Again />
        </Card>
      );
    case "unsupported":
      return (
        <Card title="This browser is too old for it.">
          <p>Talking in both directions at once needs a current Chrome, Edge, Firefox or Safari.</p>
          <Again />
        </Card>
      );
    case "unreachable":
      return (
        <Card title="The server does not answer.">
          <p>
            It may be starting, or the network may be down. Nothing is wrong on your side of it.
          </p>
          <Again />
        </Card>
      );
    case "silent":
    case "refused":
      return (
        <Card title="The server would not begin.">
          <p>{problem.kind === "refused" ? problem.message : "It said nothing for ten seconds."}</p>
          <Again />
        </Card>
      );
  }
}

function Card({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <div class="notice" role="alert">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

function Again({ label = "Try again" }: { label?: string }) {
  return (
    <div class="actions">
      <button type="button" class="action" onClick={() => void talk.start()}>
        {label}
      </button>
      <button type="button" class="quiet" onClick={() => talk.home()}>
        Not now
      </button>
    </div>
  );
}

/** All seats taken: counts down and tries by itself. */
function Full({ retryAtMs }: { retryAtMs: number }) {
  const [leftMs, setLeftMs] = useState(retryAtMs - Date.now());
  useEffect(() => {
    const timer = setInterval(() => {
      const left = retryAtMs - Date.now();
      setLeftMs(left);
      if (left > 0) return;
      clearInterval(timer);
      void talk.start();
    }, 250);
    return () => clearInterval(timer);
  }, [retryAtMs]);
  return (
    <Card title="Every seat is taken.">
      <p>
        This server carries only as many conversations as it can keep on time. The next try is in{" "}
        <span class="countdown">{clockText(Math.max(0, Math.ceil(leftMs / 1000)) * 1000)}</span>, by
        itself.
      </p>
      <Again label="Try now" />
    </Card>
  );
}

function TokenForm({ rejected }: { rejected: boolean }) {
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget as HTMLFormElement);
    token.value = String(data.get("token") ?? "").trim();
    void loadModel();
    void talk.start();
  };
  return (
    <Card title={rejected ? "That token is not the right one." : "This server asks for a token."}>
      <p>It was printed where the server was started. This tab remembers it; nothing else does.</p>
      <form class="actions" onSubmit={submit}>
        <label class="field">
          <span class="unseen">Token</span>
          <input
            name="token"
            type="password"
            autocomplete="off"
            spellcheck={false}
            placeholder="Token"
            required
            ref={(input) => input?.focus()}
          />
        </label>
        <button type="submit" class="action">
          Go on
        </button>
        <button type="button" class="quiet" onClick={() => talk.home()}>
          Not now
        </button>
      </form>
    </Card>
  );
}

/** http on a foreign host: browsers give such a page neither microphone nor sound processing. */
function Insecure() {
  const port = location.port || "80";
  return (
    <Card title="This address is not safe enough.">
      <p>
        Browsers let a page listen and speak only over <b>https</b> or on the computer itself. Start
        the server with <code>--tls self-signed</code>, or bring it to your own computer and open{" "}
        <b>http://localhost:{port}</b>:
      </p>
      <pre>
        <code>
          ssh -L {port}:localhost:{port} {location.hostname}
        </code>
      </pre>
      <div class="actions">
        <a class="action" href={`https://${location.host}${location.pathname}`}>
          Try https
        </a>
        <button type="button" class="quiet" onClick={() => talk.home()}>
          Not now
        </button>
      </div>
    </Card>
  );
}
