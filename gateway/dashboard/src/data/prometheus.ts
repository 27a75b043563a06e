// The gateway's metrics, parsed from Prometheus' text format as far as the pages need it.
import { Code, ConnectError } from "@connectrpc/connect";
import { useQuery } from "@tanstack/preact-query";
import { apiKey, keyRequested } from "../session";

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** The samples, every ten seconds; null if the gateway does not serve its metrics on this port. */
export function useMetrics() {
  return useQuery({
    queryKey: ["metrics", apiKey.value],
    queryFn: async ({ signal }) => {
      const answer = await fetch("/metrics", {
        signal,
        headers: apiKey.value ? { "x-api-key": apiKey.value } : {},
      });
      if (answer.status === 401) {
        keyRequested.value = true;
        throw new ConnectError("", Code.Unauthenticated);
      }
      if (!answer.ok || !answer.headers.get("content-type")?.startsWith("text/plain")) return null;
      return parse(await answer.text());
    },
    refetchInterval: 10_000,
  });
}

function parse(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    const [, name, inner, value] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (!name || !value) continue;
    const labels: Record<string, string> = {};
    for (const [, label, quoted] of (inner ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
      labels[label!] = quoted!.replaceAll(/\\(.)/g, (_, c: string) => (c === "n" ? "\n" : c));
    samples.push({ name, labels, value: value === "+Inf" ? Infinity : Number(value) });
  }
  return samples;
}

/** The sum of a metric for each value of a label. */
export function sumBy(samples: Sample[], name: string, label: string): Map<string, number> {
  const sums = new Map<string, number>();
  for (const s of samples)
    if (s.name === name)
      sums.set(s.labels[label] ?? "", (sums.get(s.labels[label] ?? "") ?? 0) + s.value);
  return sums;
}

/**
 * A quantile of a histogram, interpolated within its bucket as in PromQL; undefined without
 * observations.
 */
export function quantile(
  samples: Sample[],
  name: string,
  level: number,
  matches: (labels: Sample["labels"]) => boolean,
) {
  const bounds = new Map<number, number>();
  for (const s of samples)
    if (s.name === `${name}_bucket` && matches(s.labels)) {
      const bound = s.labels.le === "+Inf" ? Infinity : Number(s.labels.le);
      bounds.set(bound, (bounds.get(bound) ?? 0) + s.value);
    }
  const buckets = [...bounds].toSorted(([a], [b]) => a - b);
  const wanted = (buckets.at(-1)?.[1] ?? 0) * level;
  if (wanted === 0) return undefined;
  const at = buckets.findIndex(([, count]) => count >= wanted);
  const [above, upTo] = buckets[at]!;
  const [below, before] = buckets[at - 1] ?? [0, 0];
  return above === Infinity
    ? below
    : below + ((above - below) * (wanted - before)) / (upTo - before);
}
