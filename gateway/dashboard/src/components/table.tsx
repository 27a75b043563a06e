// The table of all pages: TanStack Table with sorting, pagination and a CSV download.
import {
  type ColumnDef,
  createPaginatedRowModel,
  createSortedRowModel,
  rowPaginationFeature,
  rowSortingFeature,
  sortFn_alphanumeric,
  sortFn_text,
  tableFeatures,
  useTable,
} from "@tanstack/preact-table";
import { ArrowDown, ArrowUp, ChevronsUpDown, Download } from "lucide-preact";
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { csv, save } from "../download";
import { count } from "../format";

/** A column: its value, which sorting and downloads use, and how the value is displayed. */
export interface Column<T> {
  header: string;
  value: (row: T) => string | number | undefined;
  /** Formats a number; also marks the column as numeric. */
  format?: (value: number) => string;
  /** Content of the cell instead of the formatted value. */
  render?: (row: T) => ComponentChildren;
  /** Only in downloads. */
  downloadOnly?: boolean;
  /** Only on the screen. */
  screenOnly?: boolean;
  /** Takes the remaining width, and wraps. */
  wide?: boolean;
}

const features = tableFeatures({
  rowSortingFeature,
  rowPaginationFeature,
  sortedRowModel: createSortedRowModel(),
  paginatedRowModel: createPaginatedRowModel(),
  sortFns: { alphanumeric: sortFn_alphanumeric, text: sortFn_text },
});

const cellContent = <T,>(column: Column<T>, row: T): ComponentChildren => {
  if (column.render) return column.render(row);
  const value = column.value(row);
  if (value === undefined || value === "") return "–";
  return typeof value === "number" && column.format ? column.format(value) : value;
};

export function downloadRows<T>(name: string, all: Column<T>[], rows: T[]) {
  const columns = all.filter((c) => !c.screenOnly);
  save(`${name}.csv`, [
    "\uFEFF",
    csv(
      columns.map((c) => c.header),
      rows.map((row) => columns.map((c) => c.value(row))),
    ),
  ]);
}

export function DownloadButton<T>({
  name,
  columns,
  rows,
}: {
  name: string;
  columns: Column<T>[];
  rows: T[];
}) {
  return (
    <button
      type="button"
      disabled={rows.length === 0}
      onClick={() => downloadRows(name, columns, rows)}
    >
      <Download aria-hidden="true" /> Download{" "}
      <span class="quiet">
        {count(rows.length)} {rows.length === 1 ? "row" : "rows"}
      </span>
    </button>
  );
}

interface Props<T> {
  label: string;
  columns: Column<T>[];
  rows: T[];
  pageSize?: number;
  /** File name of the download, without extension. Default: no download button. */
  download?: string;
}

export function Table<T extends object>({
  label,
  columns,
  rows,
  pageSize = 10,
  download,
}: Props<T>) {
  const definitions = useMemo(
    () =>
      columns.flatMap((column, index): ColumnDef<typeof features, T>[] => {
        if (column.downloadOnly) return [];
        const definition: ColumnDef<typeof features, T> = {
          id: String(index),
          header: column.header,
          accessorFn: column.value,
          sortUndefined: "last",
          sortDescFirst: column.format !== undefined,
          cell: ({ row }) => cellContent(column, row.original) as never,
        };
        return [definition];
      }),
    [columns],
  );
  const table = useTable({
    features,
    columns: definitions,
    data: rows,
    enableSortingRemoval: true,
    initialState: { pagination: { pageIndex: 0, pageSize } },
  });
  const pages = table.getPageCount();
  const page = table.state.pagination.pageIndex;
  return (
    <div class="table">
      <div class="scroll" role="region" aria-label={label} tabIndex={0}>
        {/* Explicit roles: on narrow screens rows are displayed as blocks, which drops the implicit roles. */}
        <table role="table" class={definitions.length > 3 ? "stacks" : undefined}>
          <caption class="unseen">{label}</caption>
          <thead role="rowgroup">
            {table.getHeaderGroups().map((group) => (
              <tr role="row" key={group.id}>
                {group.headers.map((header) => {
                  const sorted = header.column.getIsSorted();
                  const Arrow =
                    sorted === "asc" ? ArrowUp : sorted === "desc" ? ArrowDown : ChevronsUpDown;
                  const column = columns[Number(header.id)];
                  return (
                    <th
                      key={header.id}
                      role="columnheader"
                      scope="col"
                      class={column?.format && "number"}
                      aria-sort={
                        sorted === "asc" ? "ascending" : sorted === "desc" ? "descending" : "none"
                      }
                    >
                      <button
                        type="button"
                        class="plain"
                        onClick={header.column.getToggleSortingHandler()}
                      >
                        <table.FlexRender header={header} />
                        <Arrow aria-hidden="true" class={sorted ? undefined : "faint"} />
                      </button>
                    </th>
                  );
                })}
              </tr>
            ))}
          </thead>
          <tbody role="rowgroup">
            {table.getRowModel().rows.map((row) => (
              <tr role="row" key={row.id}>
                {row.getAllCells().map((cell) => {
                  const column = columns[Number(cell.column.id)];
                  return (
                    <td
                      key={cell.id}
                      role="cell"
                      data-label={column?.header}
                      class={column?.format ? "number" : column?.wide ? "wide" : undefined}
                    >
                      <div>
                        <table.FlexRender cell={cell} />
                      </div>
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {(pages > 1 || download) && (
        <div class="under">
          {pages > 1 && (
            <nav aria-label={`Pages of ${label}`}>
              <button
                type="button"
                disabled={!table.getCanPreviousPage()}
                onClick={() => table.previousPage()}
              >
                Previous
              </button>
              <span aria-live="polite">
                {count(page + 1)} of {count(pages)}
              </span>
              <button
                type="button"
                disabled={!table.getCanNextPage()}
                onClick={() => table.nextPage()}
              >
                Next
              </button>
            </nav>
          )}
          {download && <DownloadButton name={download} columns={columns} rows={rows} />}
        </div>
      )}
    </div>
  );
}
