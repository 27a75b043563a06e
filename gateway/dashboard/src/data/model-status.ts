// The status of each model, polled.
import { createQueryOptions } from "@connectrpc/connect-query-core";
import { keepPreviousData, useQueries, useQuery } from "@tanstack/preact-query";
import { ModelService } from "../gen/shopkeeper/model/v1/model_pb";
import { transport } from "./api";

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

/**
 * The status of a model: polled every second while its service is loading another version,
 * otherwise every ten.
 */
export const useStatus = (model: string) =>
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
