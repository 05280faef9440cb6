using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

/// <summary>
/// A process and its children, each with what their memory must hold as plain bytes, and random work on both.
/// </summary>
internal sealed class SpaceModel
{
    private const int PageCount = 16;
    private const int Page = SpaceFixture.Page;

    private readonly SplitMix64 _random;
    private readonly AddressRange _range;
    private readonly List<Process> _processes = [];
    private readonly List<SimulatedMirror> _devices = []; // also of processes that have ended: others may use pages

    public SpaceModel(in SpaceFixture f, ulong seed, bool isHuge = false)
    {
        _random = new SplitMix64(seed);
        RegionRequest request = new() { LengthBytes = PageCount * Page, UsesHugePages = isHuge };
        _range = f.Done(f.Space.Map(request)).Addresses;
        Add(new Process(f.Space, _range, new byte[PageCount]));
    }

    public void Act(in SpaceFixture f)
    {
        Process process = _processes[_random.Next(_processes.Count)];
        int page = _random.Next(PageCount);
        ulong at = _range.Start + (ulong)(page * Page);
        AddressRange one = SpaceFixture.Pages(at, 1 + _random.Next(PageCount - page));
        byte value = (byte)(1 + _random.Next(255));
        switch (_random.Next(14))
        {
            case 0 or 1:
                f.Write(at, [value], process.Space);
                process.Bytes[page] = value;
                break;
            case 2:
                Assert.Equal(process.Bytes[page], f.Read(at, 1, process.Space)[0]);
                break;
            case 3:
                Assert.Equal(Errno.Success, process.Device.TryWrite(at, [value]));
                process.Bytes[page] = value;
                break;
            case 4:
                byte[] seen = new byte[1];
                Assert.Equal(Errno.Success, process.Device.TryRead(at, seen));
                Assert.Equal(process.Bytes[page], seen[0]);
                break;
            case 5 or 6:
                f.Run(process.Space.MigrateToDevice(one, process.Device.Memory!));
                break;
            case 7:
                f.Done(process.Device.Memory!.Evict());
                break;
            case 8:
                f.Run(f.Memory.Reclaim(1 + _random.Next(8)));
                break;
            case 9:
                f.Done(process.Space.Discard(SpaceFixture.Pages(at, 1)));
                process.Bytes[page] = 0;
                break;
            case 10 when process.Pin is null:
                process.Pin = f.Run(process.Space.Pin(
                    SpaceFixture.Pages(at, 1), PinMode.Pin | PinMode.LongTerm | PinMode.Write)).Result;
                break;
            case 10:
                process.Pin!.Release();
                process.Pin = null;
                break;
            case 11 when f.Run(process.Device.TakeExclusive(at)).Errno == Errno.Success:
                Assert.Equal(Errno.Success, process.Device.TryWrite(at, [value])); // its own, until somebody touches it
                process.Bytes[page] = value;
                break;
            case 11:
                break; // no memory
            case 12:
                f.Done(process.Space.Protect(one, SpaceProtection.Read));
                f.Done(process.Space.Protect(one, SpaceProtection.ReadWrite));
                break;
            default:
                ForkOrExit(f, process);
                break;
        }
    }

    public void End(in SpaceFixture f)
    {
        foreach (Process process in _processes)
        {
            for (int page = 0; page < PageCount; page++)
            {
                byte actual = f.Read(_range.Start + (ulong)(page * Page), 1, process.Space)[0];
                Assert.Equal(process.Bytes[page], actual);
            }

        }

        foreach (Process process in _processes)
        {
            Exit(f, process);
        }

        Assert.All(_devices, d => Assert.Equal(d.Memory!.PageCount, d.Memory.FreePages));
    }

    private void ForkOrExit(in SpaceFixture f, Process process)
    {
        if (_processes.Count < 3)
        {
            ForkOperation fork = f.Run(process.Space.Fork("child"));
            if (fork.Child is { } child)
            {
                Add(new Process(child, _range, [.. process.Bytes]));
            }
        }
        else if (!ReferenceEquals(process, _processes[0]))
        {
            _processes.Remove(process);
            Exit(f, process);
        }
    }

    private void Add(Process process)
    {
        _processes.Add(process);
        _devices.Add(process.Device);
    }

    private static void Exit(in SpaceFixture f, Process process)
    {
        f.Done(process.Space.Exit());
        process.Pin?.Release();
    }

    private sealed class Process
    {
        public Process(AddressSpace space, AddressRange range, byte[] bytes)
        {
            (Space, Bytes) = (space, bytes);
            Device = new SimulatedMirror(space, range, "device");
            Device.AddMemory(10);
        }

        public AddressSpace Space { get; }

        public byte[] Bytes { get; }

        public SimulatedMirror Device { get; }

        public PinnedPages? Pin { get; set; }
    }
}
