using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>A host with a broker in this process, and programs in C that share its memory.</summary>
public abstract class BrokerTest : IAsyncLifetime
{
    private readonly List<ForeignProgram> _programs = [];

    protected BrokerTest() => Root = Directory.CreateTempSubdirectory("wayleave-broker-").FullName;

    protected string Root { get; }

    protected WayleaveHost Host { get; private set; } = null!;

    internal BrokerServer Server { get; private set; } = null!;

    protected virtual BrokerLimits Limits => new();

    // A job that never ends is the test's to end, on however busy a machine.
    protected virtual HostConfig Devices => new()
    {
        Nics = [new NicConfig { Address = System.Net.IPAddress.Loopback, UdpPort = 0 }],
        Gpus =
        [
            new GpuConfig
            {
                VramBytes = 32 << 20,
                SystemPoolBytes = 0,
                Compute = new ComputeConfig { HangLimit = ComputeConfig.HangLimitMax },
            },
        ],
        Nvmes = [],
    };

    protected virtual IReadOnlyList<uint> Users => [];

    protected static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        Host = await WayleaveHost.StartAsync(Devices with
        {
            Broker = new BrokerConfig { SocketPath = Path.Combine(Root, "broker"), Limits = Limits, Users = Users },
        });
        Server = BrokerServer.Start(Host, _ => null)!;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (ForeignProgram program in _programs)
        {
            program.Dispose();
        }

        Server.Dispose();
        await Host.DisposeAsync();
        Directory.Delete(Root, recursive: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>A program that is connected and has opened gpu0.</summary>
    private protected async Task<ForeignProgram> StartAsync()
    {
        ForeignProgram program = Start();
        await program.OkAsync($"connect {Server.SocketPath}");
        await program.OkAsync("open gpu0");
        return program;
    }

    private protected ForeignProgram Start()
    {
        ForeignProgram program = ForeignProgram.Start();
        _programs.Add(program);
        return program;
    }

    /// <summary>Bytes of the GPU that somebody has, quarantine among them.</summary>
    protected ulong UsedBytes()
    {
        using (Host.Context.Enter())
        {
            return Host.Gpus[0].Device.Stats.VramTotalBytes - Host.Gpus[0].Device.Stats.VramFreeBytes;
        }
    }

    private protected BufferDocument? Find(string name) =>
        BufferReports.Describe(Host).Buffers.SingleOrDefault(b => b.Name == name && b.Holders is not null);

    /// <summary>Passes a copy of a descriptor from one program to another; its number there.</summary>
    private protected async Task<int> PassAsync(ForeignProgram from, int descriptor, ForeignProgram to)
    {
        string meeting = Path.Combine(Root, Path.GetRandomFileName());
        await from.OkAsync($"offer {descriptor} {meeting}");
        return await to.OkAsync($"take {meeting}");
    }

    /// <summary>Passes a copy of a descriptor of this process to a program; its number there.</summary>
    private protected async Task<int> GiveAsync(ForeignProgram program, FileDescriptor descriptor)
    {
        string meeting = Path.Combine(Root, Path.GetRandomFileName());
        using System.Net.Sockets.Socket listener = MessageSocket.Listen(meeting, 1);
        Task<int> taking = program.OkAsync($"take {meeting}");
        using MessageSocket socket = new(await listener.AcceptAsync(Cancellation));
        Assert.Equal(Errno.Success, socket.Send([1], [descriptor]));
        return await taking;
    }

    /// <summary>What is on the account of a process; 0 when it has none.</summary>
    private protected long AccountOf(int processId, BrokerAccount account)
    {
        using (Host.Context.Enter())
        {
            return Server.Store.Programs.AllLocked.FirstOrDefault(p => p.ProcessId == processId)?.Ledger[account] ?? 0;
        }
    }

    private protected long DescriptorsOf(int processId) => AccountOf(processId, BrokerAccount.Descriptors);

    /// <summary>Kills the programs, and waits until nobody has anything.</summary>
    private protected async Task ExpectSettledAsync(params ForeignProgram[] programs)
    {
        foreach (ForeignProgram program in programs)
        {
            program.KillAll();
        }

        await UntilAsync("nobody has anything", () => Server.Store.Programs.Count == 0);
        using (Host.Context.Enter())
        {
            Assert.Empty(Server.Store.Buffers.AllLocked);
            Assert.Empty(Server.Store.Handles.AllLocked);
            Assert.Empty(Server.Store.Regions.AllLocked);
            Assert.Equal(0UL, Host.Gpus[0].Device.Quarantine.Bytes);
        }

        Assert.Empty(Host.GetViolations());
    }

    /// <summary>Looks again and again until what is expected is there: the only wait there is.</summary>
    protected static async Task UntilAsync(string what, Func<bool> condition)
    {
        long start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < Patience.Max, $"never came true: {what}");
            await Task.Delay(2, Cancellation);
        }
    }
}

/// <summary>A run of program.c. Disposing kills it, by its id, and its children that are known.</summary>
internal sealed class ForeignProgram : IDisposable
{
    private static readonly Lazy<string> s_program = new(Compile);

    private readonly Process _process;
    private readonly List<int> _children = [];

    private ForeignProgram(string path) => _process = Process.Start(new ProcessStartInfo(path)
    {
        RedirectStandardInput = true,
        RedirectStandardOutput = true,
    })!;

    public int Id => _process.Id;

    /// <summary>Children that live.</summary>
    public IReadOnlyList<int> Children => _children;

    public static ForeignProgram Start() => new(s_program.Value);

    /// <summary>Has it do something; what it answers.</summary>
    public async Task<string> AskAsync(string command)
    {
        await _process.StandardInput.WriteLineAsync(command);
        return await _process.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken) ?? "gone";
    }

    /// <summary>Has it do something that must succeed; the first number of its answer.</summary>
    public async Task<int> OkAsync(string command)
    {
        string answer = await AskAsync(command);
        Assert.StartsWith("ok", answer, StringComparison.Ordinal);
        string[] words = answer.Split(' ');
        return words.Length < 2 ? 0 : int.Parse(words[1], CultureInfo.InvariantCulture);
    }

    /// <summary>Has it do something that is refused.</summary>
    public async Task RefusedAsync(Errno errno, string command) =>
        Assert.StartsWith($"error {(int)errno} ", await AskAsync(command), StringComparison.Ordinal);

    /// <summary>A child that has everything that this has.</summary>
    /// <param name="how">What it does: <c>scribble</c> writes to what was mapped last.</param>
    public async Task<int> ForkAsync(string how = "fork")
    {
        int child = await OkAsync(how);
        _children.Add(child);
        return child;
    }

    /// <summary>A child that it has, and that is killed with it.</summary>
    public void Adopt(int child) => _children.Add(child);

    /// <summary>kill -9, and waits until the kernel has taken it down.</summary>
    public void Kill()
    {
        _process.Kill(); // nothing, if it has ended
        _process.WaitForExit();
    }

    public void KillChild(int child)
    {
        _children.Remove(child);
        using PidFd process = PidFd.Open(child); // .NET remembers who had the number before
        process.Kill();
    }

    /// <summary>It and its children.</summary>
    public void KillAll()
    {
        foreach (int child in _children.ToArray())
        {
            KillChild(child);
        }

        Kill();
    }

    public void Dispose()
    {
        KillAll();
        _process.Dispose();
    }

    private static string Compile()
    {
        string source = Path.Combine(Path.GetDirectoryName(ThisFile())!, "program.c");
        string target = Path.Combine(Directory.CreateTempSubdirectory("wayleave-c-").FullName, "program");
        using Process gcc = Process.Start(new ProcessStartInfo("gcc", ["-Wall", "-Werror", "-O1", "-o", target, source])
        {
            RedirectStandardError = true,
        })!;
        string errors = gcc.StandardError.ReadToEnd();
        gcc.WaitForExit();
        return gcc.ExitCode == 0 ? target : throw new InvalidOperationException(errors);
    }

    private static string ThisFile([CallerFilePath] string path = "") => path;
}
