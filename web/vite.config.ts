import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const HERE = import.meta.dirname;
const SINGLE = ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"];

/** A digest of what the page is built from; a test of the Python suite recomputes it to tell a stale build. */
function digest(): string {
  const inner = readdirSync(join(HERE, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(HERE.length + 1).replaceAll("\\", "/"));
  const hash = createHash("sha256");
  for (const path of [...SINGLE, ...inner].sort()) {
    hash.update(`${path}\0${readFileSync(join(HERE, path), "utf8").replaceAll("\r\n", "\n")}\0`);
  }
  return hash.digest("hex");
}

/** Beside the page: the digest, and the licences of the packages that are part of it. */
function records(): Plugin {
  return {
    name: "records",
    generateBundle() {
      const { dependencies } = JSON.parse(readFileSync(join(HERE, "package.json"), "utf8"));
      const licences = Object.entries(dependencies).map(
        ([name, version]) => `${name} ${version}\n\n${readFileSync(join(HERE, "node_modules", name, "LICENSE"), "utf8")}`,
      );
      this.emitFile({ type: "asset", fileName: "third-party.txt", source: licences.join("\n\n") });
      // The server does not offer files whose names begin with a dot.
      this.emitFile({ type: "asset", fileName: ".sources", source: `${digest()}\n` });
    },
  };
}

/** The page of `vertebra explore`: one script and one style sheet, which Python puts into each page that it writes. */
const explore = defineConfig({
  plugins: [records()],
  build: {
    outDir: "../src/vertebra/explore/static",
    emptyOutDir: true,
    target: "es2022",
    cssCodeSplit: false,
    rollupOptions: {
      input: "src/explore/main.tsx",
      output: { format: "iife", entryFileNames: "explore.js", assetFileNames: "explore.[ext]" },
    },
  },
});

const server = defineConfig({
  // Relative addresses: the page also works behind a proxy, under a prefix.
  base: "./",
  plugins: [records()],
  build: {
    outDir: "../src/vertebra/serve/static",
    emptyOutDir: true,
    // The server's content security policy refuses scripts and styles within the page.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/healthz": "http://127.0.0.1:8000", "/docs": "http://127.0.0.1:8000" } },
});

/** The program that writes the figures of the documentation, for Node: `docs/make_figures.py` runs it. */
const figures = defineConfig({
  build: {
    ssr: "src/explore/figure_program.ts",
    outDir: "../build/figures",
    emptyOutDir: true,
    target: "node20",
    copyPublicDir: false,
  },
});

export default defineConfig(({ mode }) => (mode === "explore" ? explore : mode === "figures" ? figures : server));
