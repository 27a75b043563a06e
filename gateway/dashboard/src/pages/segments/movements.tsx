// Customers by their segment in an earlier model version and in the current one.
import { Code, ConnectError } from "@connectrpc/connect";
import { axis, Chart, tooltip } from "../../components/chart";
import { SelectFilter } from "../../components/inputs";
import { Card, Figure } from "../../components/layout";
import { Answer, Empty, explain } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { count, day, money, percent } from "../../format";
import { type ModelInfo, ModelService } from "../../gen/shopkeeper/model/v1/model_pb";
import {
  SegmentationService,
  type SegmentMovement,
} from "../../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { filter, setFilters } from "../../url";

/**
 * Segments of a recipe are numbered in descending order of value, so that a lower number is a move
 * up. A customer without a segment is new or gone. Segments of different recipes have no order: the
 * customer is in both models.
 */
type Direction = "up" | "down" | "stayed" | "both" | "new" | "gone";

function direction(
  { fromSegmentId: from, toSegmentId: to }: SegmentMovement,
  ordered: boolean,
): Direction {
  if (from === undefined) return "new";
  if (to === undefined) return "gone";
  if (!ordered) return "both";
  return to < from ? "up" : to > from ? "down" : "stayed";
}

const DIRECTIONS: [Direction, string][] = [
  ["up", "Moved up"],
  ["down", "Moved down"],
  ["stayed", "Stayed"],
  ["both", "In both"],
  ["new", "New"],
  ["gone", "Gone"],
];

const NEW = "New";

const GONE = "Gone";

const movementColumns = (ordered: boolean): Column<SegmentMovement>[] => [
  { header: "Then", value: (m) => m.fromSegmentName || NEW },
  { header: "Now", value: (m) => m.toSegmentName || GONE },
  { header: "Direction", value: (m) => direction(m, ordered) },
  { header: "Customers", value: (m) => Number(m.customers), format: count },
  { header: "Spend", value: (m) => m.monetary, format: money },
];

export function Movements() {
  const answer = useCall(SegmentationService.method.listSegmentMovements, {
    sinceVersion: filter("since"),
  });
  const versions = useCall(ModelService.method.listModelVersions, {
    model: "segmentation",
    pageSize: 100,
  });
  const recipe = (model?: ModelInfo) =>
    versions.data?.versions.find((v) => v.version === model?.version)?.recipe;
  const describe = (model?: ModelInfo) =>
    `${model?.version} (recipe ${recipe(model) ?? "unknown"}, as of ${day(model?.asOf)})`;
  const { since, model } = answer.data ?? {};
  const ordered = recipe(since) !== undefined && recipe(since) === recipe(model);
  const others = versions.data?.versions.filter((v) => v.version !== model?.version) ?? [];
  const problem = answer.error && ConnectError.from(answer.error);
  return (
    <Card
      title="Movement between segments"
      note={
        since && !problem && !versions.isPending
          ? `From ${describe(since)} to ${describe(model)}: customers by their segment then and now.${
              ordered ? "" : " The recipes differ, so that their segments have no common order."
            }`
          : "Customers by their segment then and now"
      }
      actions={
        others.length > 1 && (
          <form class="filters" onSubmit={(event) => event.preventDefault()}>
            <SelectFilter
              name="since"
              label="Since"
              options={[
                ["", "The previous version"],
                ...others.map((v): [string, string] => [
                  v.version,
                  `${day(v.asOf)}, ${v.recipe}, ${v.version.split("-").at(-1)!.slice(0, 6)}`,
                ]),
              ]}
            />
          </form>
        )
      }
    >
      {problem?.code === Code.FailedPrecondition || problem?.code === Code.InvalidArgument ? (
        <Empty>{explain(problem)}</Empty>
      ) : (
        <Answer query={{ ...answer, data: versions.isPending ? undefined : answer.data }}>
          {({ since: earlier, movements }) =>
            earlier ? (
              <>
                <dl class="figures">
                  {DIRECTIONS.filter(([which]) =>
                    ordered ? which !== "both" : !["up", "down", "stayed"].includes(which),
                  ).map(([which, name]) => {
                    const members = movements.filter((m) => direction(m, ordered) === which);
                    return (
                      <Figure
                        key={which}
                        name={name}
                        value={count(members.reduce((all, m) => all + Number(m.customers), 0))}
                        note={`${money(members.reduce((all, m) => all + m.monetary, 0))} spent`}
                      />
                    );
                  })}
                </dl>
                <Matrix movements={movements} ordered={ordered} />
              </>
            ) : (
              <Empty>
                This is the first model version. Movement appears once another version has been
                trained.
              </Empty>
            )
          }
        </Answer>
      )}
    </Card>
  );
}

const narrow = matchMedia("(max-width: 760px)");

function Matrix({ movements, ordered }: { movements: SegmentMovement[]; ordered: boolean }) {
  // The answer is in order of value. Customers without a segment come last.
  const then = [...new Map(movements.map((m) => [m.fromSegmentId, m.fromSegmentName || NEW]))];
  const now = [...new Map(movements.map((m) => [m.toSegmentId, m.toSegmentName || GONE]))].toSorted(
    ([a = Infinity], [b = Infinity]) => a - b,
  );
  const indexOf = (of: typeof then, id: number | undefined) =>
    of.findIndex(([other]) => other === id);
  /** Customers of each earlier segment. */
  const sizes = new Map(
    then.map(([id]) => [
      id,
      movements
        .filter((m) => m.fromSegmentId === id)
        .reduce((all, m) => all + Number(m.customers), 0),
    ]),
  );
  const share = (m: SegmentMovement) => Number(m.customers) / (sizes.get(m.fromSegmentId) || 1);
  const tone = { up: 1, stayed: 0, both: 0, new: 0, gone: 0, down: -1 };
  return (
    <Chart
      label="Customers by their segment then, downwards, and now, from left to right"
      rows={movements}
      columns={movementColumns(ordered)}
      download="segment-movements"
      onChoose={(_name, at) => {
        const to = movements[at]?.toSegmentId;
        if (to !== undefined) setFilters({ segment: to });
      }}
      option={(colors) => ({
        tooltip: tooltip(colors, {
          formatter: ({ dataIndex }: { dataIndex: number }) => {
            const m = movements[dataIndex]!;
            const from = m.fromSegmentName || NEW;
            return `${from} → ${m.toSegmentName || GONE}\n${count(m.customers)} customers, ${percent(share(m))} of ${from}\n${money(m.monetary)} spent`;
          },
        }),
        grid: {
          left: 8,
          right: 8,
          top: 4,
          bottom: 4,
          outerBoundsMode: "same",
          outerBoundsContain: "axisLabel",
        },
        xAxis: {
          type: "category",
          position: "top",
          data: now.map(([, name]) => name),
          ...axis(colors),
          axisLabel: { color: colors.text, interval: 0, rotate: narrow.matches ? 60 : 0 },
        },
        yAxis: {
          type: "category",
          inverse: true,
          data: then.map(([, name]) => name),
          ...axis(colors),
          axisLabel: { color: colors.text },
        },
        visualMap: [
          {
            show: false,
            type: "continuous",
            dimension: 3,
            min: -1,
            max: 1,
            inRange: { color: [colors.down, colors.tint, colors.up] },
          },
          {
            show: false,
            type: "continuous",
            dimension: 2,
            min: 0,
            max: 1,
            inRange: { colorAlpha: [0.3, 1] },
          },
        ],
        series: [
          {
            type: "heatmap",
            data: movements.map((m) => [
              indexOf(now, m.toSegmentId),
              indexOf(then, m.fromSegmentId),
              share(m),
              tone[direction(m, ordered)],
            ]),
            itemStyle: { borderColor: colors.surface, borderWidth: 2 },
            label: {
              show: true,
              color: colors.text,
              formatter: ({ dataIndex }) => count(movements[dataIndex]!.customers),
            },
          },
        ],
      })}
    />
  );
}
