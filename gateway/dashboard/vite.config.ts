import { defineConfig } from "vite";

// The gateway that receives the calls of pages served by Vite.
const gateway = process.env.SHOPKEEPER_GATEWAY ?? "http://127.0.0.1:50050";
const proxy = Object.fromEntries(
  ["/shopkeeper.", "/grpc.", "/v1/", "/metrics"].map((path) => [path, gateway]),
);
// The Content-Security-Policy of the gateway, so that violations show up in development.
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export default defineConfig({
  server: { proxy },
  preview: { proxy, headers: { "content-security-policy": policy } },
  build: {
    outDir: "dist/app", // not `dist` itself, which stays in place for cargo to watch
    target: "es2023",
    assetsInlineLimit: 0, // a data: URL would violate the policy
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700, // kB; the chunk of ECharts, which is loaded after the page
    rolldownOptions: { checks: { moduleLevelDirective: false } }, // silences warnings about "use client" in TanStack's files
  },
});
