using System.Net;
using System.Runtime;
using System.Text.Json;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// The passive process of a benchmark: does what the active one says on its standard input, and answers on its standard
/// output. In the bandwidth tests of WRITE and READ its application sleeps, and its engine thread does the work.
/// </summary>
public sealed class PassiveSide : IAsyncDisposable
{
    private readonly TextReader _input;
    private readonly TextWriter _output;
    private BenchmarkOptions _options = new();
    private BenchmarkEnd? _end;
    private UdpEndpoint? _limitSocket;
    private TakeBackOwner? _owner;
    private PingPong? _pingPong;
    private ReceiveSink? _sink;
    private Thread? _worker;
    private Exception? _workerFailure;
    private long _operations;
    private long _bytes;
    private bool _stop;

    private PassiveSide(TextReader input, TextWriter output) => (_input, _output) = (input, output);

    /// <summary>Runs until the input ends.</summary>
    /// <returns>The exit code: 0, or 1 when a command failed; the reply to it said why.</returns>
    public static async Task<int> RunAsync(TextReader input, TextWriter output)
    {
        ArgumentNullException.ThrowIfNull(input);
        ArgumentNullException.ThrowIfNull(output);
        await using PassiveSide side = new(input, output);

        // A thread of its own: while it waits for the next command, the pool must not think that one of its workers
        // hangs.
        return await Task.Factory.StartNew(
            side.Run,
            CancellationToken.None,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default).ConfigureAwait(false);
    }

    public async ValueTask DisposeAsync()
    {
        StopWorker();
        _limitSocket?.Dispose();
        if (_end is not null)
        {
            await _end.DisposeAsync().ConfigureAwait(false);
        }
    }

    private int Run()
    {
        while (_input.ReadLine() is { } line)
        {
            PassiveReply reply;
            try
            {
                PassiveCommand command = JsonSerializer.Deserialize(line, BenchmarkJson.Default.PassiveCommand)
                    ?? throw new InvalidDataException("an empty command");
                reply = HandleAsync(command).GetAwaiter().GetResult();
            }
            catch (Exception e) when (e is IOException or JsonException or InvalidDataException or ArgumentException)
            {
                reply = new PassiveReply { Error = e.Message };
            }

            _output.WriteLine(JsonSerializer.Serialize(reply, BenchmarkJson.Default.PassiveReply));
            _output.Flush();
            if (reply.Error is not null)
            {
                return 1;
            }

            if (_owner is { IsLent: true })
            {
                // The writer has its answer and writes; the memory is taken back from under it before the next command.
                TakeBackAsync(_owner).GetAwaiter().GetResult();
            }
        }

        return 0;
    }

    private async Task TakeBackAsync(TakeBackOwner owner)
    {
        try
        {
            await owner.TakeBackAsync().ConfigureAwait(false);
        }
        catch (IOException e)
        {
            _workerFailure = e; // reported by the reply to the next command
        }
    }

    private async Task<PassiveReply> HandleAsync(PassiveCommand command)
    {
        ThrowIfWorkerFailed();
        switch (command.Verb)
        {
            case PassiveVerb.Open:
                return await OpenAsync(
                    command.Options ?? throw new InvalidDataException("open without options")).ConfigureAwait(false);
            case PassiveVerb.Connect:
                EndMessage peer = command.Peer ?? throw new InvalidDataException("connect without a peer");
                End.Connect(peer);
                _pingPong = _options.IsLatency ? PingPong.Create(End, peer, _options) : null;
                _sink = _options.Test == BenchmarkTest.SendBw ? new ReceiveSink(End, _options) : null;
                return Counters();
            case PassiveVerb.Start:
                StartWorker(RunTest);
                return Counters();
            case PassiveVerb.StartLimit:
                StartWorker(RunLimit);
                return Counters();
            case PassiveVerb.Stop:
            case PassiveVerb.StopLimit:
                StopWorker();
                return Counters();
            case PassiveVerb.Lend:
                _owner ??= new TakeBackOwner(End, _options);
                EndMessage writer = command.Peer ?? throw new InvalidDataException("lend without a peer");
                return new PassiveReply { End = await _owner.LendAsync(writer).ConfigureAwait(false) };
            default:
                TakeBackOwner owner = _owner ?? throw new InvalidDataException("inspect before lend");
                return new PassiveReply { TakeBack = await owner.InspectAsync().ConfigureAwait(false) };
        }
    }

    private BenchmarkEnd End => _end ?? throw new InvalidDataException("a command before open");

    private async Task<PassiveReply> OpenAsync(BenchmarkOptions options)
    {
        options.Validate();
        _options = options;
        _limitSocket = UdpEndpoint.Bind(
            EndpointAddress.From(IPAddress.Parse(options.PassiveAddress), 0), BenchmarkEnd.HostOptions(options).Socket);
        if (options.Test == BenchmarkTest.UdpLimit)
        {
            return new PassiveReply { LimitPort = _limitSocket.LocalAddress.Port };
        }

        _end = await BenchmarkEnd.OpenAsync(
            options, options.PassiveAddress, options.IsPinned ? BenchmarkOptions.PassiveProcessor : null)
            .ConfigureAwait(false);
        return new PassiveReply { End = _end.Message, LimitPort = _limitSocket.LocalAddress.Port };
    }

    private PassiveReply Counters() => new()
    {
        Counters = _end?.Sample(_operations, _bytes) ?? new CounterSample
        {
            AllocatedBytes = GC.GetTotalAllocatedBytes(precise: true),
            CompiledMethods = JitInfo.GetCompiledMethodCount(),
            SocketDrops = _limitSocket?.ReadStats().Drops ?? 0,
            Bytes = _bytes,
        },
    };

    private void RunTest()
    {
        if (_pingPong is not null)
        {
            _operations = _pingPong.Pong(ref _stop);
        }
        else if (_sink is not null)
        {
            _operations = _sink.Run(ref _stop);
        }
    }

    private void RunLimit() => _bytes = LimitBlast.Receive(_limitSocket!, _options.MtuBytes, ref _stop);

    private void StartWorker(Action run)
    {
        bool sleeps = _pingPong is null && _sink is null && run == RunTest;
        if (sleeps)
        {
            return;
        }

        Volatile.Write(ref _stop, false);
        _operations = _bytes = 0;
        _worker = new Thread(() =>
        {
            try
            {
                if (_options.IsPinned)
                {
                    _ = ProcessorAffinity.TryStayOn(BenchmarkOptions.PassiveProcessor);
                }

                run();
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                _workerFailure = e; // reported by the reply to the next command
            }
        })
        {
            IsBackground = true,
            Name = "wayleave bench passive side",
        };
        _worker.Start();
    }

    private void StopWorker()
    {
        if (_worker is null)
        {
            return;
        }

        Volatile.Write(ref _stop, true);
        _worker.Join();
        _worker = null;
        ThrowIfWorkerFailed();
    }

    private void ThrowIfWorkerFailed()
    {
        if (_workerFailure is { } failure)
        {
            _workerFailure = null;
            throw new IOException($"the passive side failed: {failure.Message}", failure);
        }
    }
}
