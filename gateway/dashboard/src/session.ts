// State kept in the browser: the API key until the tab is closed; theme and checked items
// permanently.
import { effect, signal } from "@preact/signals";

/** Sent with every call. */
export const apiKey = signal(sessionStorage.getItem("key") ?? "");

effect(() =>
  apiKey.value ? sessionStorage.setItem("key", apiKey.value) : sessionStorage.removeItem("key"),
);

/** Whether the gateway has refused a call for want of a valid key. */
export const keyRequested = signal(false);

export type Theme = "light" | "dark";

const preferred = matchMedia("(prefers-color-scheme: dark)");

const chosenTheme = signal(localStorage.getItem("theme") as Theme | null);

const systemTheme = signal<Theme>(preferred.matches ? "dark" : "light");

preferred.addEventListener(
  "change",
  () => (systemTheme.value = preferred.matches ? "dark" : "light"),
);

export const theme = () => chosenTheme.value ?? systemTheme.value;

export function toggleTheme() {
  chosenTheme.value = theme() === "dark" ? "light" : "dark";
  localStorage.setItem("theme", chosenTheme.value);
}

effect(() => {
  document.documentElement.dataset.theme = theme();
});

/** A set of keys in local storage. */
function persistentSet(name: string) {
  const keys = signal<ReadonlySet<string>>(
    new Set(JSON.parse(localStorage.getItem(name) ?? "[]") as string[]),
  );
  return {
    has: (key: string) => keys.value.has(key),
    toggle(key: string) {
      const changed = new Set(keys.value);
      if (!changed.delete(key)) changed.add(key);
      keys.value = changed;
      localStorage.setItem(name, JSON.stringify([...changed]));
    },
  };
}

export const seenAnomalies = persistentSet("anomalies-seen");

export const doneActions = persistentSet("actions-done");
