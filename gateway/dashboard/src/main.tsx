import { QueryClientProvider } from "@tanstack/preact-query";
import { render } from "preact";
import { App } from "./app";
import { queryClient } from "./data/api";
import "./style.css";

// After a new version of the gateway is deployed, an open page requests chunks that no longer
// exist. Reload it then, once in ten seconds at most.
addEventListener("vite:preloadError", () => {
  const last = Number(sessionStorage.getItem("reloaded"));
  if (Date.now() - last < 10_000) return;
  sessionStorage.setItem("reloaded", String(Date.now()));
  location.reload();
});

render(
  <QueryClientProvider client={queryClient}>
    <App />
  </QueryClientProvider>,
  document.getElementById("app")!,
);
