// What the browser keeps: the key for this tab, and the reader's own choices for good.
import { effect, signal } from "@preact/signals";

/** Shown to the gateway with every call; gone when the tab is closed. */
export const apiKey = signal(sessionStorage.getItem("key") ?? "");
effect(() =>
  apiKey.value ? sessionStorage.setItem("key", apiKey.value) : sessionStorage.removeItem("key"),
);

/** The gateway has asked for a key. */
export const keyWanted = signal(false);

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

/** A set of names that outlives the tab: anomalies seen, actions done. */
function keptSet(name: string) {
  const names = signal<ReadonlySet<string>>(
    new Set(JSON.parse(localStorage.getItem(name) ?? "[]") as string[]),
  );
  return {
    has: (key: string) => names.value.has(key),
    toggle(key: string) {
      const changed = new Set(names.value);
      if (!changed.delete(key)) changed.add(key);
      names.value = changed;
      localStorage.setItem(name, JSON.stringify([...changed]));
    },
  };
}
export const seen = keptSet("anomalies-seen");
export const done = keptSet("actions-done");
