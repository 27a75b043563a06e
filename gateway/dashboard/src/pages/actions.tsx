// Proposed actions of all models, each with its reason and its expected value.
import { useQueries } from "@tanstack/preact-query";
import { CountryFilter } from "../components/filters";
import { Choice, NumberFilter } from "../components/inputs";
import { Badge, Card, CustomerLink, Figure, Page, ProductLink } from "../components/layout";
import { Empty, Loading, Problem } from "../components/states";
import { type Column, Table } from "../components/table";
import { type Action, collect, type Kind, KINDS } from "../data/actions";
import { count, enumLabel, money } from "../format";
import { doneActions } from "../session";
import { filter, numberFilter } from "../url";

const ACTION_COLUMNS: Column<Action>[] = [
  {
    header: "Done",
    value: (a) => (doneActions.has(a.key) ? "done" : "open"),
    render: (a) => (
      <input
        type="checkbox"
        aria-label={`Done: ${a.what}`}
        checked={doneActions.has(a.key)}
        onChange={() => doneActions.toggle(a.key)}
      />
    ),
  },
  {
    header: "Kind",
    value: (a) => KINDS[a.kind].name,
    render: (a) => <Badge tone={KINDS[a.kind].tone}>{KINDS[a.kind].name}</Badge>,
  },
  {
    header: "For",
    value: (a) => a.customer ?? a.product,
    render: (a) =>
      a.customer ? <CustomerLink id={a.customer} /> : <ProductLink code={a.product ?? ""} />,
  },
  { header: "What to do", value: (a) => a.what, wide: true },
  { header: "Why", value: (a) => a.why, wide: true },
  {
    header: "Expected value",
    value: (a) => a.value && Math.round(a.value * 100) / 100,
    format: money,
    render: (a) => (
      <>
        {a.value === undefined ? "–" : money(a.value)}
        <span class="below-value formula">{a.formula}</span>
      </>
    ),
  },
  { header: "How the value is calculated", value: (a) => a.formula, downloadOnly: true },
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
      (show === "all" || doneActions.has(a.key) === (show === "done")),
  );
  return (
    <Page
      title="To do today"
      lead="Proposed actions for customers and products. Each line gives its reason and its expected value at the response rates set here."
      filters={
        <>
          <CountryFilter />
          <Choice
            name="kind"
            label="Kind"
            fallback="all"
            options={[["all", "All"], ...kinds.map((k): [string, string] => [k, KINDS[k].name])]}
          />
          <Choice
            name="show"
            label="Show"
            fallback="open"
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
          title="Expected value"
          note={
            country
              ? "Customers and lines of the country, products of the whole shop"
              : "By kind, of open and done actions"
          }
          actions={
            <form class="filters" aria-label="Rates" onSubmit={(event) => event.preventDefault()}>
              <NumberFilter
                name="winback"
                label="Customers won back"
                fallback={10}
                min={0}
                max={100}
                unit="%"
              />
              <NumberFilter
                name="crosssell"
                label="More spend by an offer"
                fallback={5}
                min={0}
                max={100}
                unit="%"
              />
              <NumberFilter
                name="bundle"
                label="Orders that add a bundle"
                fallback={2}
                min={0}
                max={100}
                unit="%"
              />
            </form>
          }
        >
          <dl class="figures">
            {kinds.map((k, at) => {
              const actions = all.filter((a) => a.kind === k);
              return (
                <Figure
                  key={k}
                  name={KINDS[k].name}
                  value={
                    !answers[at]!.data
                      ? "…"
                      : k === "orderLess"
                        ? "–"
                        : money(actions.reduce((sum, a) => sum + (a.value ?? 0), 0))
                  }
                  note={
                    answers[at]!.data
                      ? `${count(actions.length)} lines`
                      : enumLabel(answers[at]!.status)
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
        <Card title="Actions" note="In descending order of expected value">
          {chosen.length > 0 ? (
            <Table
              label="Actions"
              rows={chosen}
              columns={ACTION_COLUMNS}
              pageSize={15}
              download="actions"
            />
          ) : answers.some((a) => a.isPending) ? (
            <Loading />
          ) : (
            <Empty>No action matches the filters.</Empty>
          )}
        </Card>
      </div>
    </Page>
  );
}
