using System.Diagnostics;
using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>
/// Eight programs, of two users where this test may make such, that do what a seed says and are killed when it says:
/// buffers, mappings, descriptors passed on, fences, timelines, work of both engines, rings, garbage in rings, RDMA by
/// keys that live and keys that are dead, children that write and write. Objects of the host come and go in the memory
/// that they leave, and no byte of those ever changes. At the end nothing is on any account. WAYLEAVE_DEATH_SEEDS says
/// how many seeds, WAYLEAVE_DEATH_FIRST from which on, WAYLEAVE_DEATH_SECONDS how long each lasts: 20 and 60 is the
/// whole form.
/// </summary>
public sealed class RandomDeathTests : BrokerTest
{
    private const int Programs = 8;
    private const int Steps = 1200;
    private const int ChildrenMax = 2;
    private const int OrphanedMax = 8;
    private const int WitnessesMax = 4;
    private const byte Witness = 0x5E;
    private const int OtherUser = 61001;

    private readonly List<DeviceObject> _witnesses = [];
    private int _names;

    public static TheoryData<int> Seeds =>
        [.. Enumerable.Range(Number("WAYLEAVE_DEATH_FIRST") ?? 1, Number("WAYLEAVE_DEATH_SEEDS") ?? 5)];

    protected override IReadOnlyList<uint> Users => [OtherUser];

    [Theory]
    [MemberData(nameof(Seeds))]
    public async Task Whoever_dies_whenever_nothing_is_left_no_late_byte_lands_and_the_host_goes_on(int seed)
    {
        TestContext.Current.SendDiagnosticMessage($"seed {seed}");
        ulong before = UsedBytes();
        Random random = new(seed);
        Peer[] peers = new Peer[Programs];
        List<ForeignProgram> ever = [];
        if (FileStatus.CurrentUserId == 0)
        {
            File.SetUnixFileMode(Root, (UnixFileMode)0x1FF); // of all users, with everything
        }

        for (int i = 0; i < Programs; i++)
        {
            peers[i] = await NewAsync(i);
        }

        TimeSpan? duration = Number("WAYLEAVE_DEATH_SECONDS") is { } seconds ? TimeSpan.FromSeconds(seconds) : null;
        long start = Stopwatch.GetTimestamp();
        int steps = 0;
        int made = Programs;
        for (; duration is { } max ? Stopwatch.GetElapsedTime(start) < max : steps < Steps; steps++)
        {
            int at = random.Next(Programs);
            if (random.Next(25) == 0)
            {
                peers[at].Program.Kill();
                peers[at] = await NewAsync(at);
                made++;
            }
            else if (random.Next(10) == 0)
            {
                await WitnessAsync(random);
            }
            else if (!await StepAsync(random, peers[at], peers[random.Next(Programs)]))
            {
                peers[at].Program.Kill(); // the host has cut it
                peers[at] = await NewAsync(at);
            }
        }

        foreach (DeviceObject witness in _witnesses.ToArray())
        {
            await EndAsync(witness);
        }

        ever.ForEach(p => p.KillAll());

        await UntilAsync("the ledger is empty", () => UsedBytes() == before && Server.Store.Programs.Count == 0);
        using (Host.Context.Enter())
        {
            Assert.Empty(Server.Store.Buffers.AllLocked);
            Assert.Equal(0UL, Host.Gpus[0].Device.Quarantine.Bytes);
        }

        Assert.Empty(Host.GetViolations());
        ForeignProgram after = await StartAsync();
        int all = await after.OkAsync($"allocate 1 {(32 << 20) - (int)before} 0");
        await after.OkAsync($"map {all} 4096");
        Assert.Equal(0, await after.OkAsync("peek 0"));
        TestContext.Current.SendDiagnosticMessage($"seed {seed}: {steps} steps, {made} programs");

        async Task<Peer> NewAsync(int at)
        {
            ForeignProgram program = Start();
            if (at % 2 != 0 && FileStatus.CurrentUserId == 0)
            {
                await program.OkAsync($"become {OtherUser}");
            }

            await program.OkAsync($"connect {Server.SocketPath}");
            await program.OkAsync("open gpu0");
            ever.Add(program);
            if (ever.Count > Programs + OrphanedMax)
            {
                // The oldest of the dead: its children have had what it had until now.
                ForeignProgram oldest = ever.First(e => !peers.Any(p => ReferenceEquals(p?.Program, e)));
                oldest.KillAll();
                ever.Remove(oldest);
            }

            return new Peer(program);
        }
    }

    // False when the program is of no more use.
    private async Task<bool> StepAsync(Random random, Peer peer, Peer other)
    {
        ForeignProgram program = peer.Program;
        switch (random.Next(18))
        {
            case 0 or 1:
                int storage = random.Next(6) switch { 0 => 1, 1 => 2, _ => 0 };
                Keep(peer.Buffers, await program.AskAsync($"allocate 1 {4096 * random.Next(1, 200)} {storage}"));
                break;
            case 2 when peer.Buffers.Count > 0:
                await program.AskAsync($"map {Pick(random, peer.Buffers)} 4096");
                break;
            case 3 when peer.Buffers.Count > 0:
                await program.AskAsync($"unmap {Pick(random, peer.Buffers)} {(random.Next(4) == 0 ? "lie" : "")}");
                break;
            case 4 when peer.Buffers.Count > 0:
                int closed = Pick(random, peer.Buffers);
                peer.Buffers.Remove(closed);
                await program.OkAsync($"close {closed}");
                break;
            case 5 when peer.Buffers.Count > 0:
                Keep(peer.Descriptors, await program.AskAsync($"export {Pick(random, peer.Buffers)}"));
                break;
            case 6 when peer.Descriptors.Count > 0:
                Keep(peer.Buffers, await program.AskAsync($"import {Pick(random, peer.Descriptors)}"));
                break;
            case 7 when peer.Descriptors.Count > 0:
                int dropped = Pick(random, peer.Descriptors);
                peer.Descriptors.Remove(dropped);
                await program.OkAsync($"drop {dropped}");
                break;
            case 8 when peer.Descriptors.Count > 0 && !ReferenceEquals(peer, other):
                string meeting = Path.Combine(Root, Path.GetRandomFileName());
                await program.OkAsync($"offer {Pick(random, peer.Descriptors)} {meeting}");
                Keep(other.Descriptors, await other.Program.AskAsync($"take {meeting}"));
                break;
            case 9 when program.Children.Count < ChildrenMax:
                await program.ForkAsync(); // it has everything, and the host knows nothing of it
                break;
            case 9 when random.Next(4) == 0:
                program.KillChild(program.Children[0]);
                break;
            case 10 when peer.Buffers.Count > 0:
                string copy = string.Create(
                    CultureInfo.InvariantCulture,
                    $"copy 1 {Pick(random, peer.Buffers)} {Pick(random, peer.Buffers)} {4096 * random.Next(1, 50)}");
                bool waits = random.Next(3) == 0 && peer.Descriptors.Count > 0;
                string after = waits ? $" {Pick(random, peer.Descriptors)}" : "";
                Keep(peer.Descriptors, await program.AskAsync(copy + after));
                break;
            case 11 when peer.Descriptors.Count > 0:
                await program.AskAsync($"wait {Pick(random, peer.Descriptors)} {random.Next(2)}");
                break;
            case 12:
                await TimelineAsync(random, peer);
                break;
            case 13:
                await QueueAsync(random, peer);
                break;
            case 14 or 15:
                return await RingAsync(random, peer);
            case 17:
                return await RdmaAsync(random, peer);
            case 16 when peer.Buffers.Count > 0 && program.Children.Count < ChildrenMax:
                int written = Pick(random, peer.Buffers);
                if ((await program.AskAsync($"map {written} 4096")).StartsWith("ok", StringComparison.Ordinal))
                {
                    await program.ForkAsync("scribble 500");
                }

                break;
        }

        return true;
    }

    private static async Task TimelineAsync(Random random, Peer peer)
    {
        if (peer.Timeline < 0)
        {
            peer.Timeline = await peer.Program.OkAsync("timeline");
        }
        else if (random.Next(2) == 0)
        {
            Keep(peer.Descriptors, await peer.Program.AskAsync($"fence {peer.Timeline} {random.Next(1, 50)}"));
        }
        else
        {
            await peer.Program.OkAsync($"advance {peer.Timeline} {random.Next(1, 10)}");
        }
    }

    private static async Task QueueAsync(Random random, Peer peer)
    {
        if (peer.Queue < 0)
        {
            string answer = await peer.Program.AskAsync("queue 1");
            peer.Queue = answer.StartsWith("ok ", StringComparison.Ordinal)
                ? int.Parse(answer.Split(' ')[1], CultureInfo.InvariantCulture)
                : -1;
        }
        else if (random.Next(8) == 0)
        {
            Keep(peer.Descriptors, await peer.Program.AskAsync($"spin {peer.Queue}"));
        }
        else if (peer.Buffers.Count > 0)
        {
            string bound = await peer.Program.AskAsync($"bind 1 {Pick(random, peer.Buffers)}");
            if (bound.StartsWith("ok ", StringComparison.Ordinal))
            {
                peer.Address = bound.Split(' ')[2];
                Keep(peer.Descriptors, await peer.Program.AskAsync($"fill {peer.Queue} {bound.Split(' ')[2]} 4096 7"));
                if (random.Next(2) == 0)
                {
                    await peer.Program.AskAsync($"unbind 1 {bound.Split(' ')[1]}");
                }
            }
        }
    }

    // Its queue pairs are connected with each other, so that the NIC reads and writes what it has registered, and what
    // that has become meanwhile.
    private static async Task<bool> RdmaAsync(Random random, Peer peer)
    {
        ForeignProgram program = peer.Program;
        if (peer.Nic < 0)
        {
            peer.Nic = await program.OkAsync("open rdma0");
            await program.OkAsync($"pair {peer.Nic}");
            await program.OkAsync($"pair {peer.Nic}");
            await program.OkAsync("join");
        }
        else if (peer.Keys.Count == 0 || random.Next(6) == 0)
        {
            if (peer.Buffers.Count > 0)
            {
                string answer = await program.AskAsync($"register {peer.Nic} {Pick(random, peer.Buffers)} 4096");
                if (answer.StartsWith("ok ", StringComparison.Ordinal))
                {
                    peer.Regions.Add(int.Parse(answer.Split(' ')[1], CultureInfo.InvariantCulture));
                    peer.Keys.Add(answer.Split(' ')[2]);
                }
            }
        }
        else if (random.Next(8) == 0)
        {
            int closed = random.Next(peer.Regions.Count); // its key is used on: it is dead
            await program.AskAsync($"close {peer.Regions[closed]}");
            peer.Regions.RemoveAt(closed);
            peer.Keys.RemoveAt(random.Next(peer.Keys.Count));
        }
        else if (random.Next(4) == 0)
        {
            string answer = await program.AskAsync($"completions {random.Next(2)} {random.Next(2)}");
            if (answer.StartsWith("ok ", StringComparison.Ordinal) && !answer.EndsWith(" 0", StringComparison.Ordinal))
            {
                if (++peer.Pairs == 15)
                {
                    return false;
                }

                // An error, of a key that is dead: these two are of no use any more.
                await program.OkAsync($"pair {peer.Nic}");
                await program.OkAsync($"pair {peer.Nic}");
                await program.OkAsync("join");
            }
        }
        else
        {
            string local = peer.Keys[random.Next(peer.Keys.Count)], remote = peer.Keys[random.Next(peer.Keys.Count)];
            int opcode = random.Next(2) == 0 ? 0 : 4; // WRITE or READ
            await program.AskAsync($"write {random.Next(2)} {opcode} {local} {remote} {random.Next(1, 4097)}");
        }

        return true;
    }

    private static async Task<bool> RingAsync(Random random, Peer peer)
    {
        ForeignProgram program = peer.Program;
        if (peer.Ring < 0)
        {
            peer.Ring = await program.OkAsync("ring 1 8");
            return true;
        }

        switch (random.Next(14))
        {
            case 12 when peer.Queue >= 0:
                await program.AskAsync($"attachqueue {peer.Ring} {peer.Queue}");
                break;
            case 13:
                await program.OkAsync($"work {random.Next(2)} {peer.Address} {4096 * random.Next(1, 4)}");
                break;
            case 0 when peer.Buffers.Count > 0:
                await program.AskAsync($"attach {peer.Ring} {Pick(random, peer.Buffers)}");
                break;
            case 1 or 2:
                await program.AskAsync("pull 20");
                break;
            case 3 when random.Next(3) == 0:
                await program.OkAsync($"poison {random.Next()}");
                return false;
            case 4 when random.Next(3) == 0:
                await program.OkAsync("jam");
                break;
            default:
                await program.OkAsync(string.Create(
                    CultureInfo.InvariantCulture,
                    $"push {random.Next(1, 3)} {random.Next(4)} {random.Next(4)} {4096 * random.Next(1, 50)}"));
                break;
        }

        return true;
    }

    // An object of the host: made where others have been, or looked at, or given up.
    private async Task WitnessAsync(Random random)
    {
        if (_witnesses.Count == WitnessesMax || (_witnesses.Count > 0 && random.Next(3) == 0))
        {
            await EndAsync(_witnesses[random.Next(_witnesses.Count)]);
            return;
        }

        try
        {
            DeviceObject made = await Host.Objects.CreateAsync(
                "gpu0", $"witness-{_names++}", 4096UL * (ulong)random.Next(1, 400), null, Cancellation);
            bool isClear = true;
            await Host.Objects.ForEachPieceAsync(
                made, (_, bytes) => isClear &= bytes.IndexOfAnyExcept((byte)0) < 0, Cancellation);
            Assert.True(isClear, $"{made} was not clear");
            await Host.Objects.ForEachPieceAsync(made, (_, bytes) => bytes.Fill(Witness), Cancellation);
            await Host.Objects.CommitAsync(made, null);
            _witnesses.Add(made);
        }
        catch (WayleaveException e) when (e.Errno == Errno.ENOSPC)
        {
            // The programs have everything.
        }
    }

    private async Task EndAsync(DeviceObject witness)
    {
        _witnesses.Remove(witness);
        long late = -1;
        await Host.Objects.ForEachPieceAsync(
            witness,
            (at, bytes) =>
            {
                int index = bytes.IndexOfAnyExcept(Witness);
                late = late < 0 && index >= 0 ? (long)at + index : late;
            },
            Cancellation);
        Assert.True(late < 0, $"{witness} was written at {late}");
        await Host.Objects.RevokeAsync(witness, new RevokePolicy { Reason = "it was looked at" });
    }

    // What was refused, for want of room or because it was freed, is not there.
    private static void Keep(List<int> numbers, string answer)
    {
        if (answer.StartsWith("ok ", StringComparison.Ordinal))
        {
            numbers.Add(int.Parse(answer.Split(' ')[1], CultureInfo.InvariantCulture));
        }
    }

    private static int Pick(Random random, List<int> numbers) => numbers[random.Next(numbers.Count)];

    private static int? Number(string variable) =>
        int.TryParse(
            Environment.GetEnvironmentVariable(variable), NumberStyles.None, CultureInfo.InvariantCulture, out int n)
            ? n
            : null;

    private sealed record Peer(ForeignProgram Program)
    {
        public List<int> Buffers { get; } = [];

        public List<int> Descriptors { get; } = [];

        public int Timeline { get; set; } = -1;

        public int Queue { get; set; } = -1;

        public int Ring { get; set; } = -1;

        public int Nic { get; set; } = -1;

        public int Pairs { get; set; }

        public List<int> Regions { get; } = [];

        public List<string> Keys { get; } = [];

        /// <summary>Of what was bound last, and may not be any more.</summary>
        public string Address { get; set; } = "0";
    }
}
