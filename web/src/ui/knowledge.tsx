/** What the machine may look up: list, add, remove, and try a question. */

import { batch, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, type Hit, type KnowledgeDocument } from "../protocol/api";
import { api } from "./context";
import { Dialog } from "./dialog";
import { Icon } from "./icons";

export function KnowledgeDialog({ open, onClose }: { open: boolean; onClose: () => void }) {
  return (
    <Dialog title="Knowledge" open={open} onClose={onClose}>
      <Library />
    </Dialog>
  );
}

function Library() {
  const documents = useSignal<KnowledgeDocument[] | undefined>(undefined);
  const kinds = useSignal<string[]>([]);
  const message = useSignal("");
  const busy = useSignal("");

  const attempt = async (what: string, action: () => Promise<void>) => {
    batch(() => {
      busy.value = what;
      message.value = "";
    });
    try {
      await action();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      message.value =
        error.status === 401 ? "This needs the server's token: see Settings." : error.message;
    } finally {
      busy.value = "";
    }
  };
  const refresh = async () => {
    const known = await api.knowledge();
    batch(() => {
      documents.value = known.documents;
      kinds.value = known.kinds;
    });
  };
  const add = (files: Iterable<File>) =>
    attempt("Reading", async () => {
      const refused: string[] = [];
      for (const file of files) {
        try {
          await api.addKnowledge(file.name, file);
        } catch (error) {
          if (!(error instanceof ApiError) || error.status === 401) throw error;
          refused.push(`${file.name}: ${error.message}`);
        }
      }
      await refresh();
      message.value = refused.join("\n");
    });
  const remove = (document: KnowledgeDocument) =>
    attempt("Removing", async () => {
      await api.removeKnowledge(document.id);
      await refresh();
    });

  useEffect(() => {
    void attempt("Loading", refresh);
  }, []);

  return (
    <div class="library">
      <p class="remark">
        What stands in these files can be looked up from the next question on, by everybody who
        talks to this server.
      </p>
      <Upload kinds={kinds.value} onFiles={(files) => void add(files)} />
      <p class="remark" role="status">
        {busy.value && `${busy.value}\u2026`}
      </p>
      {message.value && (
        <p class="fault" role="alert">
          {message.value}
        </p>
      )}
      <ul class="documents">
        {documents.value?.map((document) => (
          <li key={document.id}>
            <span class="name">{document.name}</span>
            <span class="size">
              {document.passages.toLocaleString()}{" "}
              {document.passages === 1 ? "passage" : "passages"}
            </span>
            <button
              type="button"
              class="tool only-icon"
              aria-label={`Remove ${document.name}`}
              onClick={() => void remove(document)}
            >
              <Icon name="bin" />
            </button>
          </li>
        ))}
        {documents.value?.length === 0 && <li class="none">No files yet.</li>}
      </ul>
      <Search />
    </div>
  );
}

function Upload(props: { kinds: string[]; onFiles: (files: File[]) => void }) {
  const { kinds, onFiles } = props;
  const over = useSignal(false);
  return (
    <label
      class={`upload${over.value ? " over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        over.value = true;
      }}
      onDragLeave={() => {
        over.value = false;
      }}
      onDrop={(event) => {
        event.preventDefault();
        over.value = false;
        onFiles([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      <Icon name="up" />
      <span>
        <b>Add files</b>, or drop them here
        <small>Text, Markdown, CSV, JSON Lines, HTML, Word, PDF</small>
      </span>
      <input
        type="file"
        multiple
        accept={kinds.join(",")}
        onChange={({ currentTarget }) => {
          onFiles([...(currentTarget.files ?? [])]);
          currentTarget.value = "";
        }}
      />
    </label>
  );
}

function Search() {
  const hits = useSignal<Hit[] | undefined>(undefined);
  const fault = useSignal("");
  const search = async (event: SubmitEvent) => {
    event.preventDefault();
    const query = String(new FormData(event.currentTarget as HTMLFormElement).get("query")).trim();
    if (!query) return;
    try {
      hits.value = await api.searchKnowledge(query);
      fault.value = "";
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fault.value = error.message;
    }
  };
  return (
    <form class="search" onSubmit={(event) => void search(event)}>
      <label class="field">
        <span>What would be found?</span>
        <input name="query" type="search" placeholder="What is the capital of Peru?" />
      </label>
      <div aria-live="polite">
        {fault.value && <p class="fault">{fault.value}</p>}
        {hits.value?.length === 0 && <p class="none">Nothing.</p>}
        {hits.value?.map((hit, i) => (
          <blockquote key={i}>
            {hit.text}
            <cite>{[hit.title, hit.heading].filter(Boolean).join(" \u00b7 ")}</cite>
          </blockquote>
        ))}
      </div>
    </form>
  );
}
