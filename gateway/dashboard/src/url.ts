// Where the reader is: `#/page?filter=value`. Every filter lives here, so that a link shows what its sender saw.
import { signal } from "@preact/signals";

function read() {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: path || "overview", filters: new URLSearchParams(query) };
}
export const place = signal(read());
addEventListener("hashchange", () => (place.value = read()));

/** Filters that go along from page to page. */
const SHARED = ["country", "from", "to"];

export const filter = (name: string, otherwise = "") => place.value.filters.get(name) ?? otherwise;
/** A number within its bounds, whatever somebody typed into the address. */
export function numberFilter(name: string, otherwise: number, least: number, most: number) {
  const value = Number(filter(name) || otherwise);
  return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : otherwise;
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

/** A link to a page with the shared filters of this one. */
export function href(page: string, filters: Changes = {}) {
  const shared = new URLSearchParams(
    [...place.value.filters].filter(([name]) => SHARED.includes(name)),
  );
  return address(page, shared, filters);
}
/** Changes filters of this page; `replace` while somebody types, so that Back leaves the page. */
export function setFilters(changes: Changes, replace = false) {
  const to = address(place.value.page, place.value.filters, changes);
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(null, "", to);
    place.value = read();
  } else location.hash = to;
}
