//! `trainer sql`

use std::path::PathBuf;

use indicatif::HumanCount;
use lake::Lake;

use crate::{Context, Failure, args::LakeArgs, output::Format};

/// Query the curated tables and `quarantine`. Prints a table on a terminal, CSV otherwise
#[derive(Debug, clap::Args)]
pub(crate) struct Sql {
    /// The query, for example "SELECT country, revenue FROM sales_per_country ORDER BY revenue
    /// DESC LIMIT 5"
    query: String,
    /// Write the answer to this file instead, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    lake: LakeArgs,
}

impl Sql {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let format = self.output.as_deref().map(Format::of).transpose()?;
        let mut answer = Lake::open(&self.lake.lake)?.sql(&self.query)?;
        let (Some(format), Some(output)) = (format, self.output) else {
            return context.console.answer(&answer);
        };
        format.write(&mut answer, &output)?;
        let rows = answer.height();
        let report = serde_json::json!({ "rows": rows, "output": output });
        context.console.result(&report, || {
            format!("{} rows in {}", HumanCount(rows as u64), output.display())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::commands::testing::{lake, trainer};

    #[test]
    fn an_answer_is_written_to_a_file_in_full() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        let output = folder.path().join("answer.csv");
        let sql = |query: &str, output: &Path| {
            let output = output.to_string_lossy();
            trainer(&["sql", query, "--output", &output], &lake)
        };
        sql("SELECT *, 1 AS i, 2 AS j FROM baskets", &output).unwrap();
        let text = fs_err::read_to_string(&output).unwrap();
        let columns = "invoice,customer_id,time,country,products,size,value,i,j\n";
        assert_eq!(
            text,
            columns.to_owned() + "1,12,2011-01-01 08:00:00,EIRE,\"[\"\"10\"\"]\",1,3.0000,1,2\n"
        );
        sql("SELECT * FROM quarantine", &output).unwrap();
        assert_eq!(
            fs_err::read_to_string(&output).unwrap(),
            "file,row,field,reason,text\n"
        );
        for refused in [
            "DROP TABLE baskets",
            "DESCRIBE baskets",
            "(DELETE FROM baskets)",
            "",
        ] {
            let failure = sql(refused, &output).unwrap_err().to_string();
            assert!(
                failure.contains("it must begin with one of SELECT"),
                "{refused}: {failure}"
            );
        }
        assert!(matches!(
            sql("SELECT 1", Path::new("answer.txt")),
            Err(Failure::Ending(_))
        ));
    }
}
