import { QueryClientProvider } from "@tanstack/preact-query";
import { render } from "preact";
import { queries } from "./api";
import { App } from "./app";
import "./style.css";

render(
  <QueryClientProvider client={queries}>
    <App />
  </QueryClientProvider>,
  document.getElementById("app")!,
);
