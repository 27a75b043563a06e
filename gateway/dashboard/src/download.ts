// Tables as CSV files.

type Value = string | number | undefined;

const cell = (value: Value) => {
  const text = String(value ?? "");
  // A spreadsheet would run text that starts like a formula.
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

/** Saves text as a file of the reader's. */
export function save(name: string, parts: BlobPart[], type = "text/csv;charset=utf-8") {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const csv = (header: string[], rows: Value[][]) =>
  [header, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
