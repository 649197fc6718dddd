//! Role `project`: folds facts, results and tables into Postgres, rows and position in one transaction.

pub mod ddl;
pub mod window;
