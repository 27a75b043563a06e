// The customer segments, their strategies, and the movement of customers between them.
import { CountryFilter } from "../../components/filters";
import { SelectFilter } from "../../components/inputs";
import { Card, Page } from "../../components/layout";
import { Answer } from "../../components/states";
import { useCall } from "../../data/api";
import { day, decimal, enumLabel, percent } from "../../format";
import { ModelService } from "../../gen/shopkeeper/model/v1/model_pb";
import {
  Lifecycle,
  type ListSegmentsResponse,
  SegmentationService,
} from "../../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { SegmentCustomers } from "./customers";
import { Movements } from "./movements";
import { Profiles } from "./profiles";
import { Scatter } from "./scatter";
import { Shares } from "./shares";

export default function Segments() {
  const segments = useCall(SegmentationService.method.listSegments, {});
  const names = segments.data?.segments ?? [];
  const quality = useQuality(segments.data);
  return (
    <Page
      title="Segments"
      lead="The customer segments: their size, their share of spend, and a strategy for each."
      filters={
        <>
          <CountryFilter />
          <SelectFilter
            name="segment"
            label="Segment"
            options={[
              ["", "All segments"],
              ...names.map((s): [string, string] => [String(s.segmentId), s.name]),
            ]}
          />
          <SelectFilter
            name="lifecycle"
            label="Lifecycle stage"
            options={[
              ["", "Any"],
              ...[Lifecycle.NEW, Lifecycle.ACTIVE, Lifecycle.COOLING, Lifecycle.LAPSED].map(
                (l): [string, string] => [Lifecycle[l], enumLabel(Lifecycle[l])],
              ),
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Card
          title="Shares"
          span={6}
          note={
            segments.data &&
            `As of ${day(segments.data.asOf)}, recipe ${segments.data.recipe}${quality}`
          }
        >
          <Answer query={segments} isEmpty={(a) => a.segments.length === 0}>
            {(a) => <Shares segments={a.segments} />}
          </Answer>
        </Card>
        <Scatter />
        <Answer query={segments}>{(a) => <Profiles segments={a.segments} />}</Answer>
        <Movements />
        <SegmentCustomers />
      </div>
    </Page>
  );
}

/**
 * The quality of the segments by the aim of their recipe: separate clusters (silhouette), or
 * explained spend.
 */
function useQuality(of: ListSegmentsResponse | undefined): string {
  const details = useCall(ModelService.method.getModelStatus, { model: "segmentation" }).data
    ?.status?.details;
  if (!of) return "";
  if (CLUSTERS.has(of.recipe)) return `, silhouette ${decimal(of.silhouette)}`;
  const explained =
    details?.version === of.model?.version &&
    details?.metrics.find((m) => m.name === "spend_explained");
  if (!explained) return "";
  const naive =
    explained.baseline === undefined
      ? ""
      : `; fifths by spend explain ${percent(explained.baseline, 0)}`;
  return `, explains ${percent(explained.value, 0)} of the variance of log spend in the next 90 days${naive}`;
}

const CLUSTERS = new Set(["rfm3", "value4"]);
