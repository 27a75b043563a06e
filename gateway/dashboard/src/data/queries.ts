// Queries that several pages share.
import { type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { keepPreviousData, useQuery } from "@tanstack/preact-query";
import { AnomalyService, Measure } from "../gen/shopkeeper/anomaly/v1/anomaly_pb";
import { type ChurnRisk, ChurnService, RiskLevel } from "../gen/shopkeeper/churn/v1/churn_pb";
import { InsightsService } from "../gen/shopkeeper/insights/v1/insights_pb";
import {
  type CustomerSegment,
  type Lifecycle,
  SegmentationService,
} from "../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { filter } from "../url";
import { call, callAllPages, skipToken, useCall } from "./api";

const DAY_MS = 86_400_000;

/** The filters for country and days, as fields of a request to the insights service. */
export function useRange() {
  const country = filter("country");
  const from = validDay(filter("from"));
  const to = validDay(filter("to"));
  return {
    countries: country ? [country] : [],
    startTime: from && timestampFromDate(from),
    // The last day is included, so the range ends at the next midnight.
    endTime: to && timestampFromDate(new Date(to.getTime() + DAY_MS)),
  };
}

function validDay(text: string): Date | undefined {
  const date = new Date(`${text}T00:00:00Z`);
  return Number.isNaN(date.getTime()) ? undefined : date;
}

/** The range of the same length that ends where another begins. */
export function previousRange(start: Timestamp, end: Timestamp) {
  const from = timestampDate(start).getTime();
  const length = timestampDate(end).getTime() - from;
  return { startTime: timestampFromDate(new Date(from - length)), endTime: start };
}

export const useCountries = () => useCall(InsightsService.method.listCountries, { pageSize: 1000 });

/** Customers and their churn risk, in descending order of value at risk, 5,000 at most. */
export const useRisks = (country: string) =>
  useQuery({
    queryKey: ["risks", country],
    queryFn: () => fetchRisks(country),
  });

export function fetchRisks(country: string) {
  return callAllPages(
    (pageToken) =>
      call(ChurnService.method.listAtRiskCustomers, {
        pageSize: 1000,
        pageToken,
        country,
        minRiskLevel: RiskLevel.LOW,
      }),
    (answer) => answer.churnRisks,
  );
}

/** A customer with segment and risk. */
export interface Customer {
  segment: CustomerSegment;
  risk?: ChurnRisk;
}

/**
 * Customers of a segment in descending order of spend. Filtered by country, only those that the
 * churn model knows.
 */
export const useCustomers = (country: string, segmentId: number, lifecycle: Lifecycle) =>
  useQuery({
    queryKey: ["customers", country, segmentId, lifecycle],
    queryFn: async () => {
      const [segments, risks] = await Promise.all([
        callAllPages(
          (pageToken) =>
            call(SegmentationService.method.listCustomerSegments, {
              pageSize: 1000,
              pageToken,
              segmentId,
              lifecycle,
            }),
          (answer) => answer.customerSegments,
        ),
        // Without the churn model the list lacks risks. Only that model knows countries, so that a
        // filter by country fails.
        fetchRisks(country).catch((error: unknown) => {
          if (country) throw error;
        }),
      ]);
      const byId = new Map(risks?.items.map((risk) => [risk.customerId, risk]));
      const customers = segments.items.map((segment): Customer => ({
        segment,
        risk: byId.get(segment.customerId),
      }));
      return {
        customers: country ? customers.filter((c) => c.risk) : customers,
        total: segments.total,
      };
    },
    placeholderData: keepPreviousData,
  });

/** The name of a product; empty while it loads or if it is unknown. */
export function useProductName(stockCode: string): string {
  const found = useCall(
    InsightsService.method.searchProducts,
    stockCode ? { query: stockCode, pageSize: 1 } : skipToken,
  );
  const [product] = found.data?.products ?? [];
  return product?.stockCode === stockCode ? product.description : "";
}

/** The usual price of a unit: the median that the anomaly model compares with. */
export async function medianPrice(stockCode: string): Promise<number | undefined> {
  const { score } = await call(AnomalyService.method.scoreTransaction, {
    transaction: { stockCode, quantity: 1n, unitPrice: 1 },
  });
  return score?.deviations.find((d) => d.measure === Measure.UNIT_PRICE && d.baseline === "product")
    ?.expected;
}
