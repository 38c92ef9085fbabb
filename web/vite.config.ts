import { defineConfig } from "vitest/config";
import { fakeServer } from "./dev/fake-server.ts";

// The same sources give the same bytes: names carry the hash of their content, and nothing in the
// output depends on time or place.
export default defineConfig(({ command }) => ({
  base: "./",
  plugins: command === "serve" && !process.env.DUOLOGUE_SERVER ? [fakeServer()] : [],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  worker: { format: "es" },
  server: {
    port: 5173,
    ...(process.env.DUOLOGUE_SERVER
      ? { proxy: { "/api": { target: process.env.DUOLOGUE_SERVER, ws: true } } }
      : {}),
  },
  build: {
    outDir: "../duologue/server/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    rolldownOptions: { output: { comments: false } },
  },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
}));
