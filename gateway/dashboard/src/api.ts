// Calls to the gateway that served this page, with clients generated from its protos.
import type {
  DescMessage,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import {
  callUnaryMethod,
  createQueryOptions,
  skipToken,
  type SkipToken,
} from "@connectrpc/connect-query-core";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { QueryClient, keepPreviousData, useQuery } from "@tanstack/preact-query";
import { apiKey, keyWanted } from "./session";

const withKey: Interceptor = (next) => async (request) => {
  const key = apiKey.value;
  if (key) request.header.set("x-api-key", key);
  try {
    return await next(request);
  } catch (error) {
    // Not for a call that left before the key that there is now.
    if (ConnectError.from(error).code === Code.Unauthenticated && key === apiKey.value)
      keyWanted.value = true;
    throw error;
  }
};
export const transport = createGrpcWebTransport({
  baseUrl: location.origin,
  interceptors: [withKey],
  defaultTimeoutMs: 10_000,
});

const passing = (error: unknown) =>
  [Code.Unavailable, Code.DeadlineExceeded, Code.ResourceExhausted, Code.Unknown].includes(
    ConnectError.from(error).code,
  );

export const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 60_000,
      retry: (failures, error) => failures < 1 && passing(error),
      retryDelay: 300,
      // A service that was away is asked again until it is back.
      refetchInterval: (query) => (query.state.error && passing(query.state.error) ? 5_000 : false),
    },
  },
});

/** An answer and how it is coming along; the last one stays while filters change. */
export function useCall<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I> | SkipToken,
) {
  return useQuery({
    ...createQueryOptions(method, request, { transport }),
    placeholderData: keepPreviousData,
  });
}
export { skipToken };

/** One call outside of a component, kept like the others. */
export function ask<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
): Promise<MessageShape<O>> {
  return queries.fetchQuery(createQueryOptions(method, request, { transport }));
}

/** One call that changes something, never kept or sent twice. */
export function change<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
): Promise<MessageShape<O>> {
  return callUnaryMethod(transport, method, request);
}

/** All pages of a list, up to a number of pages; `total` says how many there would be. */
export async function askAll<M extends { nextPageToken: string; totalSize: number }, T>(
  page: (pageToken: string) => Promise<M>,
  items: (answer: M) => T[],
  pages = 5,
): Promise<{ items: T[]; total: number; first: M }> {
  const first = await page("");
  const all = [...items(first)]; // the answer is kept for others, so it stays as it is
  let token = first.nextPageToken;
  for (let asked = 1; token && asked < pages; asked++) {
    const next = await page(token);
    all.push(...items(next));
    token = next.nextPageToken;
  }
  return { items: all, total: first.totalSize, first };
}
