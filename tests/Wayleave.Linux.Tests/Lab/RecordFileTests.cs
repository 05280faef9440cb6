using Wayleave.Lab.Tests;
using Xunit;

namespace Wayleave.Linux.Tests.Lab;

/// <summary>Records of the kernel are compared as records, and a difference is named.</summary>
public sealed class RecordFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-lab-test.").FullName;

    [Fact]
    public void What_was_written_reads_back_whatever_its_spaces()
    {
        string lines = Path.Combine(_folder, "records.jsonl");
        File.WriteAllText(lines, "{\"a\": 1,  \"b\": [2, 3]}\n\n{\"a\":2}\n");
        IReadOnlyList<string> seen = RecordFile.ReadLines(lines);
        string file = Path.Combine(_folder, "record.json");
        RecordFile.Write(file, "test/1", "7.2", seen);
        Assert.Equal(seen, RecordFile.Read(file));
        Assert.Empty(RecordFile.Compare(RecordFile.Read(file), seen));
    }

    [Fact]
    public void A_record_that_changed_shows_as_a_line_out_and_a_line_in() =>
        Assert.Equal(
            ["- {\"a\":1}", "+ {\"a\":2}"], RecordFile.Compare(["{\"a\":1}", "{\"b\":1}"], ["{\"b\":1}", "{\"a\":2}"]));

    [Fact]
    public void The_order_of_records_counts() =>
        Assert.Single(RecordFile.Compare(["{\"a\":1}", "{\"b\":1}"], ["{\"b\":1}", "{\"a\":1}"]));

    [Fact]
    public void A_record_that_is_not_there_holds_nothing() =>
        Assert.Empty(RecordFile.Read(Path.Combine(_folder, "none.json")));

    public void Dispose() => Directory.Delete(_folder, recursive: true);
}
