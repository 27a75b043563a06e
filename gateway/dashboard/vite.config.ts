import { defineConfig } from "vite";

// A gateway to send calls to while the page is served by Vite.
const gateway = process.env.SHOPKEEPER_GATEWAY ?? "http://127.0.0.1:50050";
const proxy = Object.fromEntries(
  ["/shopkeeper.", "/grpc.", "/v1/", "/metrics"].map((path) => [path, gateway]),
);
// What the gateway sends, so that a violation shows while developing.
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export default defineConfig({
  server: { proxy },
  preview: { proxy, headers: { "content-security-policy": policy } },
  build: {
    outDir: "dist/app", // dist itself stays, for cargo to watch
    target: "es2023",
    assetsInlineLimit: 0, // a data: URL would need a looser policy
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700, // ECharts, which is loaded after the page
    rolldownOptions: { checks: { moduleLevelDirective: false } }, // "use client" in TanStack's files
  },
});
