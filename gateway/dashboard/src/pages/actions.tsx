// What to do today, for which customers and products: the five models together, each line with its worth.
import { useQueries } from "@tanstack/preact-query";
import { collect, KINDS, type Action, type Kind } from "../actions";
import { CountryFilter } from "../filters";
import { count, enumWord, money } from "../format";
import {
  Badge,
  Card,
  Choice,
  CustomerLink,
  Empty,
  Figure,
  Loading,
  NumberFilter,
  Page,
  Problem,
  ProductLink,
} from "../parts";
import { done } from "../session";
import { Table, type Column } from "../table";
import { filter, numberFilter } from "../url";

const COLUMNS: Column<Action>[] = [
  {
    header: "Done",
    value: (a) => (done.has(a.key) ? "done" : "open"),
    show: (a) => (
      <input
        type="checkbox"
        aria-label={`Done: ${a.what}`}
        checked={done.has(a.key)}
        onChange={() => done.toggle(a.key)}
      />
    ),
  },
  {
    header: "Kind",
    value: (a) => KINDS[a.kind].name,
    show: (a) => <Badge tone={KINDS[a.kind].tone}>{KINDS[a.kind].name}</Badge>,
  },
  {
    header: "For",
    value: (a) => a.customer ?? a.product,
    show: (a) =>
      a.customer ? <CustomerLink id={a.customer} /> : <ProductLink code={a.product ?? ""} />,
  },
  { header: "What to do", value: (a) => a.what, wide: true },
  { header: "Why", value: (a) => a.why, wide: true },
  {
    header: "Expected value",
    value: (a) => a.value && Math.round(a.value * 100) / 100,
    format: money,
    show: (a) => (
      <>
        {a.value === undefined ? "–" : money(a.value)}
        <span class="below-value formula">{a.formula}</span>
      </>
    ),
  },
  { header: "How that is counted", value: (a) => a.formula, hidden: true },
];

export default function Actions() {
  const country = filter("country");
  const rates = {
    winBack: numberFilter("winback", 10, 0, 100) / 100,
    crossSell: numberFilter("crosssell", 5, 0, 100) / 100,
    bundle: numberFilter("bundle", 2, 0, 100) / 100,
  };
  const kinds = Object.keys(KINDS) as Kind[];
  const answers = useQueries({
    queries: kinds.map((kind) => ({
      queryKey: ["actions", kind, country, rates],
      queryFn: () => collect[kind](country, rates),
      placeholderData: (last: Action[] | undefined) => last,
    })),
  });
  const kind = filter("kind", "all");
  const show = filter("show", "open");
  const all = answers
    .flatMap((a) => a.data ?? [])
    .toSorted((a, b) => (b.value ?? 0) - (a.value ?? 0));
  const chosen = all.filter(
    (a) =>
      (kind === "all" || a.kind === kind) &&
      (show === "all" || done.has(a.key) === (show === "done")),
  );
  return (
    <Page
      title="To do today"
      lead="For which customers and products something is worth doing now. Each line says why, and what it may bring by the rates set here."
      filters={
        <>
          <CountryFilter />
          <Choice
            name="kind"
            label="Kind"
            otherwise="all"
            options={[["all", "All"], ...kinds.map((k): [string, string] => [k, KINDS[k].name])]}
          />
          <Choice
            name="show"
            label="Show"
            otherwise="open"
            options={[
              ["open", "Open"],
              ["done", "Done"],
              ["all", "All"],
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Card
          title="Worth"
          note={
            country
              ? "Customers and lines of the country; products of the whole shop"
              : "By kind, of all that is open or done"
          }
          actions={
            <form class="filters" aria-label="Rates" onSubmit={(event) => event.preventDefault()}>
              <NumberFilter
                name="winback"
                label="Won back by asking"
                otherwise={10}
                least={0}
                most={100}
                unit="%"
              />
              <NumberFilter
                name="crosssell"
                label="More by an offer"
                otherwise={5}
                least={0}
                most={100}
                unit="%"
              />
              <NumberFilter
                name="bundle"
                label="Take up a bundle"
                otherwise={2}
                least={0}
                most={100}
                unit="%"
              />
            </form>
          }
        >
          <dl class="figures">
            {kinds.map((k, at) => {
              const those = all.filter((a) => a.kind === k);
              return (
                <Figure
                  key={k}
                  name={KINDS[k].name}
                  value={
                    !answers[at]!.data
                      ? "…"
                      : k === "orderLess"
                        ? "–"
                        : money(those.reduce((sum, a) => sum + (a.value ?? 0), 0))
                  }
                  note={
                    answers[at]!.data
                      ? `${count(those.length)} lines`
                      : enumWord(answers[at]!.status)
                  }
                />
              );
            })}
          </dl>
          {answers.map((a, at) =>
            a.error ? (
              <div key={kinds[at]}>
                <h3>{KINDS[kinds[at]!].name}</h3>
                <Problem error={a.error} retry={a.refetch} />
              </div>
            ) : null,
          )}
        </Card>
        <Card title="Actions" note="The most valuable first">
          {chosen.length > 0 ? (
            <Table
              label="Actions"
              rows={chosen}
              columns={COLUMNS}
              pageSize={15}
              download="actions"
            />
          ) : answers.some((a) => a.isPending) ? (
            <Loading />
          ) : (
            <Empty>Nothing to do that matches the filters.</Empty>
          )}
        </Card>
      </div>
    </Page>
  );
}
