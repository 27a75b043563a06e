// The address of a page: `#/page?filter=value`. It holds every filter, so that a shared link shows
// the same view.
import { signal } from "@preact/signals";

function parseHash() {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: path || "overview", filters: new URLSearchParams(query) };
}

export const route = signal(parseHash());

addEventListener("hashchange", () => (route.value = parseHash()));

/** Filters that links to other pages keep. */
const SHARED = ["country", "from", "to"];

export const filter = (name: string, fallback = "") => route.value.filters.get(name) ?? fallback;

/** A number from the address, clamped to its bounds. */
export function numberFilter(name: string, fallback: number, min: number, max: number) {
  const value = Number(filter(name) || fallback);
  return Number.isFinite(value) ? Math.min(max, Math.max(min, value)) : fallback;
}

type Changes = Record<string, string | number | undefined>;

function address(page: string, filters: URLSearchParams, changes: Changes) {
  const changed = new URLSearchParams(filters);
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined || value === "") changed.delete(name);
    else changed.set(name, String(value));
  }
  const query = changed.toString();
  return `#/${page}${query && `?${query}`}`;
}

/** A link to a page that keeps the shared filters. */
export function href(page: string, filters: Changes = {}) {
  const shared = new URLSearchParams(
    [...route.value.filters].filter(([name]) => SHARED.includes(name)),
  );
  return address(page, shared, filters);
}

/**
 * Changes filters of this page. With `replace` no history entry is added, so that typing does not
 * fill the history.
 */
export function setFilters(changes: Changes, replace = false) {
  const to = address(route.value.page, route.value.filters, changes);
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(null, "", to);
    route.value = parseHash();
  } else location.hash = to;
}
