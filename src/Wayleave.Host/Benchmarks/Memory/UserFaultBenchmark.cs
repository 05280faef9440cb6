using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Linux;
using Wayleave.Linux.UserFaults;

namespace Wayleave.Host.Benchmarks.Memory;

// Two threads: one loads a byte of each page, by a P/Invoke, because a managed fault that this process serves itself
// stops the collector for ever; the other takes the events and puts zero pages there. The peer is the same in C,
// compiled for the run, on the same kind of memory, in rounds that take turns.

/// <summary>
/// Measures faults of real memory, served by this process (userfaultfd(2)), beside the same resolved in C:
/// <c>wayleave bench fault --uffd</c>.
/// </summary>
public static class UserFaultBenchmark
{
    private const int Page = UserFaultRegion.PageBytes;
    private const int NoUserFaults = 77; // as the peer exits
    private const int Rounds = 4;

    /// <summary>Runs it to its end, on this thread and another.</summary>
    /// <exception cref="WayleaveException">
    /// EOPNOTSUPP: this kernel or user has no userfaultfd, or there is no C compiler; says which.
    /// </exception>
    public static MemoryBenchmarkReport Run(MemoryBenchmarkOptions options, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        int pages = (int)(options.SizeBytes / Page);
        DirectoryInfo folder = Directory.CreateTempSubdirectory("wayleave-uffd-");
        try
        {
            string peer = Compile(folder.FullName);
            List<double> own = [], ofPeer = [];
            long rounds = 0;
            ServeRound(pages, null); // compiles what is measured
            for (int turn = 0; turn < Rounds; turn++)
            {
                cancellation.ThrowIfCancellationRequested();
                ofPeer.AddRange(RunPeer(peer, pages, options.Iterations));
                for (int round = 0; round < options.Iterations; round++)
                {
                    cancellation.ThrowIfCancellationRequested();
                    rounds += ServeRound(pages, own);
                }
            }

            double ratio = Samples.Median(ofPeer) / Samples.Median(own);
            return new MemoryBenchmarkReport
            {
                Test = MemoryBenchmarkTest.Fault,
                SizeBytes = options.SizeBytes,
                Processors = Environment.ProcessorCount,
                Results =
                [
                    new("userfaultfd, served here", Samples.Summarize([.. own]), RatioToPeer: ratio),
                    new("userfaultfd, resolved in C", Samples.Summarize([.. ofPeer])),
                ],
                NotifierRounds = rounds,
            };
        }
        catch (LinuxException e) when (e.Errno is Errno.EPERM or Errno.ENOSYS or Errno.EINVAL)
        {
            throw new WayleaveException(Errno.EOPNOTSUPP, "bench fault --uffd", e.Message, innerException: e);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    // Every round has a region of its own: its end, an unmap, is an event that a notifier hears of.
    private static long ServeRound(int pages, List<double>? samples)
    {
        HostContext host = new(TimeProvider.System);
        using UserFaultRegion region = UserFaultRegion.Create(pages * Page);
        UserFaultNotifier notifier;
        using (host.Enter())
        {
            notifier = new UserFaultNotifier(new AddressSpace(new MemorySystem(host), "benchmark"), region);
        }

        LinuxException? failure = null;
        Thread server = new(() => failure = Serve(notifier)) { IsBackground = true, Name = "wayleave userfaultfd" };
        server.Start();
        Span<byte> one = stackalloc byte[1];
        for (int page = 0; page < pages; page++)
        {
            ulong address = region.Addresses.Start + ((ulong)page * Page);
            long start = Stopwatch.GetTimestamp();
            UserFaultRegion.Load(address, one);
            samples?.Add(Stopwatch.GetElapsedTime(start).TotalMicroseconds);
        }

        UserFaultRegion.Unmap(region.Addresses);
        server.Join();
        if (failure is not null)
        {
            throw new InvalidOperationException("the thread that serves faults failed", failure);
        }

        bool isWhole = notifier.FaultCount == pages && notifier.RoundCount == 1;
        return isWhole ? notifier.RoundCount : throw new InvalidOperationException(
            $"{notifier.FaultCount} faults of {pages} pages were served, and {notifier.RoundCount} changes told");
    }

    private static LinuxException? Serve(UserFaultNotifier notifier)
    {
        try
        {
            while (notifier.TryServe(Timeout.InfiniteTimeSpan, out UserFaultEvent served)
                && served.Kind != UserFaultKind.Unmap)
            {
            }

            return null;
        }
        catch (LinuxException e)
        {
            return e;
        }
    }

    private static string Compile(string folder)
    {
        string source = Path.Combine(folder, "userfault.c"), program = Path.Combine(folder, "userfault");
        using (Stream text = typeof(UserFaultBenchmark).Assembly.GetManifestResourceStream("userfault.c")!)
        using (FileStream file = File.Create(source))
        {
            text.CopyTo(file);
        }

        (int exitCode, _, string error) = RunProgram("cc", "-O2", "-pthread", "-o", program, source);
        return exitCode == 0 ? program : throw new WayleaveException(
            Errno.EIO, "bench fault --uffd", $"the compiler refused the peer: {ErrnoMap.FirstLine(error)}");
    }

    private static IEnumerable<double> RunPeer(string program, int pages, int rounds)
    {
        (int exitCode, string output, string error) = RunProgram(
            program,
            pages.ToString(CultureInfo.InvariantCulture),
            rounds.ToString(CultureInfo.InvariantCulture));
        if (exitCode != 0)
        {
            throw new WayleaveException(
                exitCode == NoUserFaults ? Errno.EOPNOTSUPP : Errno.EIO,
                "bench fault --uffd",
                $"the peer in C failed: {ErrnoMap.FirstLine(error)}");
        }

        return output.Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(line => long.Parse(line, CultureInfo.InvariantCulture) / 1000.0);
    }

    private static (int ExitCode, string Output, string Error) RunProgram(string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        try
        {
            using Process process = Process.Start(start)!;
            Task<string> error = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return (process.ExitCode, output, error.GetAwaiter().GetResult());
        }
        catch (Win32Exception e)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                "bench fault --uffd",
                $"{program} cannot be run: {e.Message}",
                "install a C compiler (gcc)",
                e);
        }
    }
}
