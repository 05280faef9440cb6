using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Transfers;

/// <summary>Files that appear whole or not at all, with and without O_TMPFILE.</summary>
public sealed class WholeFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-whole-").FullName;

    public static TheoryData<bool> Ways => [true, false];

    private string Target => Path.Combine(_folder, "name");

    private string[] Names => [.. Directory.GetFileSystemEntries(_folder).Select(p => Path.GetFileName(p)).Order()];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Ways))]
    public void A_file_appears_under_its_name_when_it_is_published(bool unnamed)
    {
        using WholeFile file = WholeFile.CreateAs(Target, 3, unnamed);
        Write(file, "new");
        Assert.False(File.Exists(Target));
        Assert.Equal(unnamed ? [] : [PartOf(Environment.ProcessId)], Names);
        file.Publish();
        Assert.Equal("new", File.ReadAllText(Target));
        Assert.Equal(["name"], Names);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void A_file_that_is_there_is_replaced_as_a_whole(bool unnamed)
    {
        File.WriteAllText(Target, "much longer than the new one");
        using WholeFile file = WholeFile.CreateAs(Target, 3, unnamed);
        Write(file, "new");
        Assert.Equal("much longer than the new one", File.ReadAllText(Target));
        file.Publish();
        Assert.Equal(("new", "name"), (File.ReadAllText(Target), Assert.Single(Names)));
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void What_is_not_published_leaves_no_trace(bool unnamed)
    {
        File.WriteAllText(Target, "old");
        using (WholeFile file = WholeFile.CreateAs(Target, 3, unnamed))
        {
            Write(file, "new");
        }

        Assert.Equal(("old", "name"), (File.ReadAllText(Target), Assert.Single(Names)));
    }

    [Fact]
    public void A_symbolic_link_stays_and_leads_to_the_new_file()
    {
        string link = Path.Combine(_folder, "link");
        File.WriteAllText(Target, "old");
        File.CreateSymbolicLink(link, "name");
        using WholeFile file = WholeFile.Create(link);
        Write(file, "new");
        file.Publish();
        Assert.Equal("new", File.ReadAllText(Target));
        Assert.Equal("name", new FileInfo(link).LinkTarget);
    }

    [Fact]
    public void Parts_of_dead_writers_are_removed_and_nothing_else()
    {
        int dead = DeadProcess();
        string[] others = [".name.x.part", $".other.{dead}.part", ".name..part", PartOf(Environment.ProcessId), "name"];
        foreach (string name in others.Append(PartOf(dead)))
        {
            File.WriteAllText(Path.Combine(_folder, name), "");
        }

        WholeFile.Create(Target).Dispose();
        Assert.Equal(others.Order(), Names);
    }

    [Fact]
    public void A_part_whose_writer_holds_its_lock_stays_although_its_process_is_not_seen_here()
    {
        string part = Path.Combine(_folder, PartOf(DeadProcess()));
        using (File.Open(part, FileMode.Create, FileAccess.Write, FileShare.None))
        {
            WholeFile.Create(Target).Dispose();
            Assert.True(File.Exists(part));
        }

        WholeFile.Create(Target).Dispose();
        Assert.False(File.Exists(part));
    }

    [Fact]
    public void What_is_no_file_is_refused_as_a_target_and_as_a_source_and_never_opened()
    {
        string fifo = Path.Combine(_folder, "fifo"), socket = Path.Combine(_folder, "socket");
        using (Process mkfifo = Process.Start("mkfifo", [fifo]))
        {
            mkfifo.WaitForExit();
        }

        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(socket));
        foreach ((string path, string kind) in
            ((string, string)[])[(fifo, "FIFO"), (socket, "socket"), ("/dev/null", "device")])
        {
            WayleaveException e = Assert.Throws<WayleaveException>(() => WholeFile.Create(path));
            Assert.Equal($"write {path}: it is a {kind}; name a file, which is replaced as a whole", e.Message);
            e = Assert.Throws<WayleaveException>(() => LocalFile.OpenSource(path, out _));
            Assert.Equal(
                $"read {path}: it is a {kind}; save what comes out of it to a file first, whose size is known",
                e.Message);
        }

        Assert.Equal(
            $"write {_folder}: it is a folder; name the file too",
            Assert.Throws<WayleaveException>(() => WholeFile.Create(_folder)).Message);
        Assert.Equal(
            $"write {Target}/x: there is no folder {Target}; make it first",
            Assert.Throws<WayleaveException>(() => WholeFile.Create(Target + "/x")).Message);
        Assert.Equal(
            "write /proc/x: no file can be made in /proc; name another folder",
            Assert.Throws<WayleaveException>(() => WholeFile.Create("/proc/x")).Message);
        Assert.Equal(
            Errno.EINVAL, Assert.Throws<WayleaveException>(() => LocalFile.OpenSource("", out _)).Errno);
        Assert.Equal(["fifo", "socket"], Names);
    }

    [Fact]
    public void More_than_the_disk_holds_is_told_before_a_byte_is_written()
    {
        WayleaveException e = Assert.Throws<WayleaveException>(() => WholeFile.Create(Target, 1L << 60));
        Assert.True(e.Errno is Errno.ENOSPC or Errno.EFBIG, e.Message);
        Assert.Empty(Names);
    }

    private static string PartOf(int process) => $".name.{process}.part";

    private static int DeadProcess()
    {
        using Process process = Process.Start("true");
        process.WaitForExit();
        return process.Id;
    }

    private static void Write(WholeFile file, string text)
    {
        using Stream stream = file.OpenStream();
        stream.Write(Encoding.ASCII.GetBytes(text));
    }
}
