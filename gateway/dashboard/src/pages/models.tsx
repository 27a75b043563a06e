// The models: which version answers, how good it is, what it had to pass.
import { ConnectError } from "@connectrpc/connect";
import { createQueryOptions } from "@connectrpc/connect-query-core";
import { keepPreviousData, useQueries, useQuery } from "@tanstack/preact-query";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { change, queries, transport, useCall } from "../api";
import { axis, Chart, tooltip } from "../chart";
import { bytes, day, dayOf, decimal, enumWord, isoDay, moment, sentence, words } from "../format";
import {
  ModelService,
  ModelState,
  type Gate,
  type ModelStatus,
  type ModelVersion,
} from "../gen/shopkeeper/model/v1/model_pb";
import { metricName, metricValue } from "../metrics";
import { Answer, Badge, Card, Choice, Empty, explain, Page, SelectFilter } from "../parts";
import { useMetrics } from "../prometheus";
import { Table, type Column } from "../table";
import { filter } from "../url";

export const MODELS = [
  "segmentation",
  "forecast",
  "recommendation",
  "churn",
  "anomaly",
  "insights",
];

export function useStatuses() {
  return useQueries({
    queries: MODELS.map((model) => ({
      ...createQueryOptions(ModelService.method.getModelStatus, { model }, { transport }),
      refetchInterval: 10_000,
    })),
  }).map((query, at) => ({ model: MODELS[at]!, query }));
}

export const StateBadge = ({ status }: { status: ModelStatus }) => (
  <Badge
    tone={
      status.state === ModelState.SERVING
        ? "good"
        : status.state === ModelState.DEGRADED
          ? "bad"
          : "weak"
    }
  >
    {enumWord(ModelState[status.state])}
  </Badge>
);

export default function Models() {
  const model = filter("model", MODELS[0]);
  return (
    <Page
      title="Models"
      lead="Which version of each model answers now, how good it was on later transactions, and the checks it passed."
      filters={
        <Choice
          name="model"
          label="Model"
          otherwise={MODELS[0]!}
          options={MODELS.map((m): [string, string] => [m, enumWord(m)])}
        />
      }
    >
      <div class="cards">
        <Current model={model} />
        <Versions model={model} />
        <Drift model={model} />
      </div>
    </Page>
  );
}

const GATES: Column<Gate>[] = [
  { header: "Gate", value: (g) => sentence(g.name), wide: true },
  {
    header: "Passed",
    value: (g) => (g.passed ? "yes" : "no"),
    show: (g) => <Badge tone={g.passed ? "good" : "bad"}>{g.passed ? "Passed" : "Failed"}</Badge>,
  },
  { header: "Figures", value: (g) => sentence(g.detail), wide: true },
];

/** The status of a model, asked again every second while its service is on the way to another version. */
const useStatus = (model: string) =>
  useQuery({
    ...createQueryOptions(ModelService.method.getModelStatus, { model }, { transport }),
    placeholderData: keepPreviousData,
    refetchInterval: (query) => {
      const status = query.state.data?.status;
      return query.state.error
        ? 5_000
        : status && status.version !== status.wantedVersion && !status.refusal
          ? 1_000
          : 10_000;
    },
  });

function Current({ model }: { model: string }) {
  const answer = useStatus(model);
  return (
    <>
      <Card title="Now" span={5}>
        <Answer of={answer}>
          {({ status }) =>
            status && (
              <>
                <p class="tags">
                  <StateBadge status={status} />
                </p>
                <dl class="pairs">
                  <dt>Version</dt>
                  <dd class="breaks">{status.version || "none yet"}</dd>
                  <dt>Knows lines before</dt>
                  <dd>{day(status.details?.asOf)}</dd>
                  <dt>Recipe</dt>
                  <dd>{status.details?.recipe || "–"}</dd>
                  <dt>Answers since</dt>
                  <dd>{moment(status.loadedAt)}</dd>
                  <dt>Size</dt>
                  <dd>{status.details ? bytes(status.details.sizeBytes) : "–"}</dd>
                  {status.wantedVersion !== status.version && (
                    <>
                      <dt>Wanted</dt>
                      <dd class="breaks">{status.wantedVersion}</dd>
                    </>
                  )}
                </dl>
                {status.refusal && <p class="bad below">{status.refusal}</p>}
              </>
            )
          }
        </Answer>
      </Card>
      <Card title="Gates" note="What it had to pass before it was published" span={7}>
        <Answer
          of={answer}
          empty={(a) => !a.status?.details?.gates.length}
          nothing="This model has no gates."
        >
          {(a) => <Table label="Gates" rows={a.status!.details!.gates} columns={GATES} />}
        </Answer>
      </Card>
    </>
  );
}

const VERSIONS: Column<ModelVersion>[] = [
  {
    header: "Version",
    value: (v) => v.version,
    show: (v) => (
      <>
        {v.version} {v.current && <Badge tone="good">Current</Badge>}
      </>
    ),
  },
  { header: "As of", value: (v) => dayOf(v.asOf), show: (v) => day(v.asOf) },
  { header: "Recipe", value: (v) => v.recipe },
  {
    header: "Gates",
    value: (v) => `${v.gates.filter((g) => g.passed).length} of ${v.gates.length}`,
    show: (v) => {
      const failed = v.gates.filter((g) => !g.passed).length;
      return (
        <Badge tone={failed ? "bad" : "good"}>
          {failed ? `${failed} failed` : `${v.gates.length} passed`}
        </Badge>
      );
    },
  },
  { header: "Size", value: (v) => Number(v.sizeBytes), format: bytes },
];

interface Measured {
  version: string;
  asOf: string;
  name: string;
  value: number;
  baseline?: number;
  /** Of the next older version. */
  before?: number;
}
const MEASURED: Column<Measured>[] = [
  { header: "Figure", value: (m) => metricName(m.name), wide: true },
  {
    header: "Model",
    value: (m) => m.value,
    format: (v) => decimal(v, 3),
    show: (m) => metricValue(m.name, m.value),
  },
  {
    header: "Naive answer",
    value: (m) => m.baseline,
    format: (v) => decimal(v, 3),
    show: (m) => (m.baseline === undefined ? "–" : metricValue(m.name, m.baseline)),
  },
];

const CURRENT: Column<Measured>[] = [
  ...MEASURED,
  {
    header: "Before",
    value: (m) => m.before,
    format: (v) => decimal(v, 3),
    show: (m) => (m.before === undefined ? "–" : metricValue(m.name, m.before)),
  },
];

const shortVersion = (version: string) => version.split("-").at(-1)!.slice(0, 6);
const OVER: Column<Measured>[] = [
  { header: "Version", value: (m) => m.version },
  { header: "As of", value: (m) => m.asOf, show: (m) => isoDay(m.asOf) },
  ...MEASURED.slice(1),
];

/** A button in each row but that of the current version. */
const publishColumn = (choose: (version: ModelVersion) => void): Column<ModelVersion> => ({
  header: "Publish",
  value: (v) => (v.current ? "current" : ""),
  screen: true,
  show: (v) =>
    v.current ? (
      "–"
    ) : (
      <button type="button" aria-label={`Make current: ${v.version}`} onClick={() => choose(v)}>
        Make current
      </button>
    ),
});

function Versions({ model }: { model: string }) {
  const answer = useCall(ModelService.method.listModelVersions, { model, pageSize: 100 });
  const allowed = useStatus(model).data?.allowsPublish ?? false;
  const [chosen, choose] = useState<ModelVersion>();
  const [told, tell] = useState("");
  useEffect(() => tell(""), [model]);
  const columns = useMemo(
    () => (allowed ? [...VERSIONS, publishColumn(choose)] : VERSIONS),
    [allowed],
  );
  const current = answer.data?.versions.find((v) => v.current);
  return (
    <>
      <Answer
        of={answer}
        empty={(a) => a.versions.length === 0}
        nothing="The store has no version of this model."
      >
        {({ versions }) => <Metrics versions={versions} />}
      </Answer>
      <Card
        title="Versions"
        note={
          allowed
            ? "An earlier version can be made current again, and a newer one current"
            : undefined
        }
      >
        <p role="status" class={told ? "notice" : "unseen"}>
          {told}
        </p>
        <Answer of={answer} empty={(a) => a.versions.length === 0}>
          {({ versions }) => (
            <Table
              label="Versions in the model store"
              rows={versions}
              columns={columns}
              download={`${model}-versions`}
            />
          )}
        </Answer>
      </Card>
      {chosen && (
        <PublishDialog
          model={model}
          version={chosen}
          current={current}
          onEnd={(said) => {
            choose(undefined);
            if (said) tell(said);
          }}
        />
      )}
    </>
  );
}

function PublishDialog(props: {
  model: string;
  version: ModelVersion;
  current?: ModelVersion;
  onEnd: (said?: string) => void;
}) {
  const { model, version, current, onEnd } = props;
  const dialogRef = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  useEffect(() => dialogRef.current?.showModal(), []);
  async function run() {
    setBusy(true);
    setProblem("");
    try {
      await change(ModelService.method.setCurrentVersion, {
        model,
        version: version.version,
        expectedVersion: current?.version ?? "",
      });
      onEnd(`${version.version} is the current version. Services take it within seconds.`);
    } catch (error) {
      setProblem(explain(ConnectError.from(error)));
      setBusy(false);
    }
    // What other pages have was said by the version before.
    void queries.invalidateQueries();
  }
  const older =
    current && Number(version.asOf?.seconds ?? 0n) < Number(current.asOf?.seconds ?? 0n);
  return (
    <dialog ref={dialogRef} aria-labelledby="publish-title" onClose={() => onEnd()}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void run();
        }}
      >
        <h2 id="publish-title">Make this version current?</h2>
        <dl class="pairs">
          <dt>Model</dt>
          <dd>{enumWord(model)}</dd>
          <dt>From</dt>
          <dd class="breaks">
            {current ? `${current.version}, as of ${day(current.asOf)}` : "none"}
          </dd>
          <dt>To</dt>
          <dd class="breaks">
            {version.version}, as of {day(version.asOf)}
          </dd>
        </dl>
        <p>
          Every service that follows this store answers with it from then on.
          {older && " It knows less than the current one: lines after its day are not in it."}
        </p>
        {problem && (
          <p class="bad" role="alert">
            {problem}
          </p>
        )}
        <div class="buttons">
          <button type="button" onClick={() => dialogRef.current?.close()}>
            Leave it
          </button>
          <button type="submit" class="primary" disabled={busy}>
            Make current
          </button>
        </div>
      </form>
    </dialog>
  );
}

function Metrics({ versions }: { versions: ModelVersion[] }) {
  const rows = versions.toReversed().flatMap((v) =>
    v.metrics.map((m): Measured => ({
      version: v.version,
      asOf: dayOf(v.asOf),
      name: m.name,
      value: m.value,
      baseline: m.baseline,
    })),
  );
  const names = [...new Set(rows.map((r) => r.name))];
  const chosen = names.includes(filter("figure")) ? filter("figure") : names[0];
  const shown = rows.filter((r) => r.name === chosen);
  const newest = versions.find((v) => v.current) ?? versions[0];
  // Versions come newest first.
  const older = newest && versions[versions.indexOf(newest) + 1];
  const measured = rows
    .filter((r) => r.version === newest?.version)
    .map((r): Measured => ({ ...r, before: older?.metrics.find((m) => m.name === r.name)?.value }));
  if (!chosen)
    return (
      <Card title="Figures">
        <Empty>These versions were published without an evaluation.</Empty>
      </Card>
    );
  return (
    <div class="cards">
      <Card
        title="Figures of the current version"
        note={`On transactions after those it learnt from${older ? "; before: the same of the version before" : ""}`}
        span={6}
      >
        <Table
          label="Figures of the current version"
          rows={measured}
          columns={older ? CURRENT : MEASURED}
        />
      </Card>
      <Card
        title="Over versions"
        note="Dashed: the naive answer to the same question"
        span={6}
        actions={
          <form class="filters" onSubmit={(event) => event.preventDefault()}>
            <SelectFilter
              name="figure"
              label="Figure"
              otherwise={names[0]}
              options={names.map((n): [string, string] => [n, metricName(n)])}
            />
          </form>
        }
      >
        <Chart
          label={`${metricName(chosen)} over the versions of the model`}
          rows={shown}
          columns={OVER}
          option={(colors) => ({
            tooltip: tooltip(colors, {
              trigger: "axis",
              valueFormatter: (v: unknown) => (v === null ? "–" : metricValue(chosen, Number(v))),
            }),
            xAxis: {
              type: "category",
              data: shown.map((r) => `${isoDay(r.asOf)} · ${shortVersion(r.version)}`),
              ...axis(colors),
            },
            yAxis: {
              type: "value",
              scale: true,
              ...axis(colors),
              axisLabel: { color: colors.muted, formatter: (v: number) => metricValue(chosen, v) },
            },
            series: [
              { type: "line", name: "Model", symbolSize: 9, data: shown.map((r) => r.value) },
              ...(shown.some((r) => r.baseline !== undefined)
                ? [
                    {
                      type: "line" as const,
                      name: "Naive answer",
                      symbolSize: 9,
                      lineStyle: { type: "dashed" as const },
                      data: shown.map((r) => r.baseline ?? null),
                    },
                  ]
                : []),
            ],
          })}
        />
      </Card>
    </div>
  );
}

interface Drifted {
  number: string;
  index: number;
}
/** From which population stability index on a number is worth a look, and from which it is another one. */
const LOOK = 0.1;
const OTHER = 0.25;
const drifted = (index: number) => (index >= OTHER ? "bad" : index >= LOOK ? "weak" : "good");
const DRIFT: Column<Drifted>[] = [
  { header: "Number", value: (d) => words(d.number), wide: true },
  { header: "Stability index", value: (d) => d.index, format: (v) => decimal(v, 3) },
  {
    header: "Since training",
    value: (d) =>
      d.index >= OTHER ? "another spread" : d.index >= LOOK ? "worth a look" : "the same spread",
    show: (d) => (
      <Badge tone={drifted(d.index)}>
        {d.index >= OTHER ? "Another spread" : d.index >= LOOK ? "Worth a look" : "The same spread"}
      </Badge>
    ),
  },
];

function Drift({ model }: { model: string }) {
  const metrics = useMetrics();
  const numbers = (metrics.data ?? [])
    // 0 until a thousand values have been compared, and hardly ever after.
    .filter((s) => s.name === "shopkeeper_model_drift" && s.labels.model === model && s.value > 0)
    .map((s): Drifted => ({ number: s.labels.number ?? "", index: s.value }))
    .toSorted((a, b) => b.index - a.index);
  return (
    <Card
      title="Drift"
      note="How far the numbers of today's calls are spread otherwise than those of training: population stability index, from 0.1 on worth a look, from 0.25 on another spread"
    >
      <Answer
        of={metrics}
        empty={() => numbers.length === 0}
        nothing="This gateway has not yet seen enough calls of this model, or the model's service is elsewhere."
      >
        {() => (
          <Table
            label="Drift of the model's numbers"
            rows={numbers}
            columns={DRIFT}
            download={`${model}-drift`}
          />
        )}
      </Answer>
    </Card>
  );
}
