import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.TreeSet;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.util.PSQLException;

/**
 * pgjdbc through the front door. Arguments: the way that is looked at, a JDBC URL, and the driver's properties as
 * name=value. Prints what was seen, one name, a tab and a value a line.
 */
public class Pgjdbc {
    private static final String BIG = "x".repeat(3 << 20); // Larger than any buffer on the way.
    private static final int ROWS = 100_000;

    private final String url;
    private final Properties properties;

    private Pgjdbc(String url, Properties properties) {
        this.url = url;
        this.properties = properties;
    }

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        for (String word : Arrays.copyOfRange(arguments, 2, arguments.length)) {
            properties.setProperty(word.split("=", 2)[0], word.split("=", 2)[1]);
        }
        Pgjdbc driver = new Pgjdbc(arguments[1], properties);
        if (arguments[0].equals("refused")) {
            try (Connection connection = driver.connect()) {
                seen("state", "let in");
            } catch (SQLException error) {
                seen("state", error.getSQLState());
                seen("message", error.getMessage().lines().findFirst().orElse(""));
            }
            return;
        }
        try (Connection connection = driver.connect()) {
            driver.queries(connection);
            driver.prepared(connection);
            driver.transactions(connection);
            driver.batches(connection);
            driver.copies(connection);
            driver.notifications(connection);
            driver.cancels(connection);
            try (Statement statement = connection.createStatement()) {
                statement.execute("drop table from_driver");
            }
        }
        driver.oneAfterTheOther();
    }

    private static void seen(String name, Object value) {
        System.out.println(name + "\t" + value);
    }

    private Connection connect(String... more) throws SQLException {
        Properties all = new Properties();
        all.putAll(properties);
        for (int at = 0; at < more.length; at += 2) {
            all.setProperty(more[at], more[at + 1]);
        }
        return DriverManager.getConnection(url, all);
    }

    private static Object one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getObject(1);
        }
    }

    private void queries(Connection connection) throws SQLException {
        seen("driver", connection.getMetaData().getDriverVersion());
        seen("who", one(connection, "select current_user || ' in ' || current_database()"));
        seen("valid", connection.isValid(5));
        seen("pid", one(connection, "select pg_backend_pid()")
                .equals(connection.unwrap(PGConnection.class).getBackendPID()));
        try (Statement statement = connection.createStatement()) {
            statement.execute("create table from_driver (id int generated always as identity, n int unique, big text)");
            statement.execute("select 1/0");
        } catch (PSQLException error) {
            seen("error", error.getSQLState() + " " + error.getServerErrorMessage().getMessage());
        }
        try (ResultSet tables = connection.getMetaData().getColumns(null, "public", "from_driver", null)) {
            List<String> names = new ArrayList<>();
            while (tables.next()) {
                names.add(tables.getString("COLUMN_NAME"));
            }
            seen("columns", String.join(",", names));
        }
    }

    private void prepared(Connection connection) throws SQLException {
        List<Integer> twice = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement("select ?::int * 2")) {
            statement.unwrap(PGStatement.class).setPrepareThreshold(2);
            for (int number = 1; number <= 4; number++) {
                statement.setInt(1, number);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    twice.add(rows.getInt(1));
                }
            }
            seen("twice", twice);
            seen("atServer", statement.unwrap(PGStatement.class).isUseServerPrepare());
            seen("held", one(connection, "select count(*) from pg_prepared_statements where statement like '%* 2'"));
        }
        String insert = "insert into from_driver (n, big) values (?, ?)";
        try (PreparedStatement statement = connection.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            statement.setInt(1, 1);
            statement.setString(2, BIG);
            statement.executeUpdate();
            try (ResultSet keys = statement.getGeneratedKeys()) {
                keys.next();
                seen("key", keys.getInt("id"));
            }
        }
        seen("big", BIG.equals(one(connection, "select big from from_driver")));
    }

    private void transactions(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(10);
            int count = 0;
            try (ResultSet rows = statement.executeQuery("select generate_series(1, 105)")) {
                while (rows.next()) {
                    count++;
                }
            }
            seen("byCursor", count);
            Savepoint savepoint = connection.setSavepoint();
            try {
                statement.execute("insert into from_driver (n) values (1)");
            } catch (SQLException error) {
                seen("unique", error.getSQLState());
            }
            connection.rollback(savepoint);
            statement.execute("insert into from_driver (n) values (2)");
            connection.rollback();
            seen("rolledBack", one(connection, "select count(*) from from_driver where n = 2"));
            connection.commit();
        }
        connection.setAutoCommit(true);
    }

    private void batches(Connection connection) throws SQLException {
        String insert = "insert into from_driver (n) values (?)";
        try (Connection rewriting = connect("reWriteBatchedInserts", "true")) {
            int from = 1_000;
            for (Connection at : List.of(connection, rewriting)) {
                try (PreparedStatement statement = at.prepareStatement(insert)) {
                    for (int number = 0; number < 5_000; number++) {
                        statement.setInt(1, from + number);
                        statement.addBatch();
                    }
                    statement.executeBatch();
                }
                from += 10_000;
            }
        }
        seen("batched", one(connection, "select count(*) from from_driver where n >= 1000"));
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            for (int number : new int[] {100_000, 1, 100_001}) {
                statement.setInt(1, number);
                statement.addBatch();
            }
            statement.executeBatch();
        } catch (BatchUpdateException error) {
            seen("failedBatch", error.getNextException().getSQLState());
        }
        seen("afterFailedBatch", one(connection, "select count(*) from from_driver where n >= 100000"));
    }

    private void copies(Connection connection) throws Exception {
        StringBuilder lines = new StringBuilder();
        for (int number = 0; number < ROWS; number++) {
            lines.append(200_000 + number).append('\n');
        }
        var copy = connection.unwrap(PGConnection.class).getCopyAPI();
        seen("copiedIn", copy.copyIn("copy from_driver (n) from stdin", new StringReader(lines.toString())));
        StringWriter out = new StringWriter();
        String query = "copy (select n from from_driver where n >= 200000 order by n) to stdout";
        seen("copiedOut", copy.copyOut(query, out));
        seen("copied", out.toString().contentEquals(lines));
        try {
            copy.copyIn("copy from_driver (n) from stdin", new StringReader("5\nno number\n"));
        } catch (SQLException error) {
            seen("badCopy", error.getSQLState());
        }
        seen("afterBadCopy", one(connection, "select count(*) from from_driver where n = 5"));
    }

    private void notifications(Connection connection) throws SQLException {
        PGConnection listener = connection.unwrap(PGConnection.class);
        try (Statement statement = connection.createStatement(); Connection other = connect()) {
            statement.execute("listen news");
            try (Statement sender = other.createStatement()) {
                sender.execute("notify news, 'hello'");
            }
            PGNotification[] heard = null;
            for (int tries = 0; tries < 300 && (heard == null || heard.length == 0); tries++) {
                heard = listener.getNotifications(100);
            }
            seen("heard", heard[0].getParameter());
            seen("from", heard[0].getPID() == other.unwrap(PGConnection.class).getBackendPID());
            statement.execute("unlisten news");
        }
    }

    private void cancels(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement(); Connection other = connect()) {
            int pid = connection.unwrap(PGConnection.class).getBackendPID();
            Thread canceller = new Thread(() -> {
                try {
                    String asleep = "select count(*) from pg_stat_activity where query ~ '^select pg_sleep' and pid = ";
                    while (one(other, asleep + pid).equals(0L)) {
                        Thread.onSpinWait();
                    }
                    statement.cancel();
                } catch (SQLException error) {
                    throw new IllegalStateException(error);
                }
            });
            canceller.start();
            try {
                statement.execute("select pg_sleep(60)");
            } catch (SQLException error) {
                seen("cancelled", error.getSQLState());
            }
            canceller.join();
            seen("afterCancel", one(connection, "select 1"));
            statement.setQueryTimeout(1);
            try {
                statement.execute("select pg_sleep(60)");
            } catch (SQLException error) {
                seen("timedOut", error.getSQLState());
            }
            seen("afterTimeout", one(connection, "select 1"));
        }
    }

    /** Each prepares a statement by the same name, which a pool must not let the next one find. */
    private void oneAfterTheOther() throws SQLException {
        TreeSet<Object> pids = new TreeSet<>();
        int sum = 0;
        for (int number = 0; number < 10; number++) {
            try (Connection connection = connect("prepareThreshold", "1")) {
                pids.add(one(connection, "select pg_backend_pid()"));
                try (PreparedStatement statement = connection.prepareStatement("select ?::int")) {
                    statement.setInt(1, number);
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        sum += rows.getInt(1);
                    }
                }
            }
        }
        seen("sum", sum);
        seen("servers", pids.size());
    }
}
