// Calls over gRPC-Web to the gateway that served this page, with clients generated from its protos.
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
import { keepPreviousData, QueryClient, useQuery } from "@tanstack/preact-query";
import { apiKey, keyRequested } from "../session";

const withKey: Interceptor = (next) => async (request) => {
  const key = apiKey.value;
  if (key) request.header.set("x-api-key", key);
  try {
    return await next(request);
  } catch (error) {
    // A call that was sent before the current key was entered says nothing about that key.
    if (ConnectError.from(error).code === Code.Unauthenticated && key === apiKey.value)
      keyRequested.value = true;
    throw error;
  }
};

export const transport = createGrpcWebTransport({
  baseUrl: location.origin,
  interceptors: [withKey],
  defaultTimeoutMs: 10_000,
});

/** Errors that may be gone when the call is repeated. */
const isTransient = (error: unknown) =>
  [Code.Unavailable, Code.DeadlineExceeded, Code.ResourceExhausted, Code.Unknown].includes(
    ConnectError.from(error).code,
  );

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 60_000,
      retry: (failures, error) => failures < 1 && isTransient(error),
      retryDelay: 300,
      // Keeps asking a failed service until it answers again.
      refetchInterval: (query) =>
        query.state.error && isTransient(query.state.error) ? 5_000 : false,
    },
  },
});

/** The state of a call. While its request changes, the previous answer stays in `data`. */
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

/** A call from outside a component, through the same cache. */
export function call<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
): Promise<MessageShape<O>> {
  return queryClient.fetchQuery(createQueryOptions(method, request, { transport }));
}

/** A call that changes something: not cached and not retried. */
export function mutate<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
): Promise<MessageShape<O>> {
  return callUnaryMethod(transport, method, request);
}

/** The items of a list's first `maxPages` pages, and the total number of items in the list. */
export async function callAllPages<M extends { nextPageToken: string; totalSize: number }, T>(
  fetchPage: (pageToken: string) => Promise<M>,
  items: (answer: M) => T[],
  maxPages = 5,
): Promise<{ items: T[]; total: number; first: M }> {
  const first = await fetchPage("");
  const all = [...items(first)]; // a copy, because the cached answer is shared
  let token = first.nextPageToken;
  for (let page = 1; token && page < maxPages; page++) {
    const next = await fetchPage(token);
    all.push(...items(next));
    token = next.nextPageToken;
  }
  return { items: all, total: first.totalSize, first };
}
