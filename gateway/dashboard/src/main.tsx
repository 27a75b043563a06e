import { QueryClientProvider } from "@tanstack/preact-query";
import { render } from "preact";
import { queries } from "./api";
import { App } from "./app";
import "./style.css";

// A page that was open while the gateway was replaced asks for files that are gone: load it anew, but not over and over.
addEventListener("vite:preloadError", () => {
  const last = Number(sessionStorage.getItem("reloaded"));
  if (Date.now() - last < 10_000) return;
  sessionStorage.setItem("reloaded", String(Date.now()));
  location.reload();
});

render(
  <QueryClientProvider client={queries}>
    <App />
  </QueryClientProvider>,
  document.getElementById("app")!,
);
