using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// What a driver does around migrate_vma: region by region, with the address-space lock held to read from the first step
// to the last. Killed at any of them, it leaves every page where it was.

/// <summary>
/// Moves the pages of a range to a device's memory or home, on behalf of its driver. The range goes step by step
/// (<see cref="MigrationState"/>); each page that cannot migrate stays where it is and is not counted.
/// </summary>
/// <remarks>
/// <see cref="Errno.EINVAL"/> for a range that is no whole pages, or where a hole, a region of a device or one that may
/// not be read lies in it; <see cref="Errno.ENOENT"/> when no page migrated; <see cref="Errno.EDEADLK"/> when a
/// mirror's wait would never end.
/// </remarks>
public sealed class MigrateOperation : SpaceOperation
{
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly MigrationSelect _select;
    private readonly bool _isToDevice;

    internal MigrateOperation(
        AddressSpace space, AddressRange range, DeviceMemory device, bool isToDevice, Activity? activity)
        : base(space.Memory, activity, $"{device.Driver.Name} migrates")
    {
        (_space, _range, Device, _isToDevice) = (space, range, device, isToDevice);
        _select = isToDevice ? MigrationSelect.System
            : device.Kind == PageFrameKind.DevicePrivate ? MigrationSelect.DevicePrivate
            : MigrationSelect.DeviceCoherent;
    }

    /// <summary>Where the pages go, or come from.</summary>
    public DeviceMemory Device { get; }

    /// <summary>Of the region that is under way.</summary>
    public MigrationState State { get; private set; }

    /// <summary>Pages that changed places.</summary>
    public int MigratedCount { get; private set; }

    /// <summary>As a part of another operation, whose <see cref="SpaceOperation.Activity"/> it has.</summary>
    internal IEnumerable<Pause> RunInside() => Run();

    private protected override IEnumerable<Pause> Run()
    {
        if (!_range.IsPageAligned || _range.LengthBytes == 0 || _range.End < _range.Start)
        {
            Errno = Errno.EINVAL;
            yield break;
        }

        SpaceLockHold hold = _space.Lock.Ask(Activity, isWrite: false);
        try
        {
            foreach (Pause pause in _space.Lock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            for (ulong at = _range.Start; at < _range.End && StepErrno == Errno.Success;)
            {
                if (_space.FindRegion(at) is not { } region || region.IsSpecial || !region.IsReadable
                    || region.File is { Kind: MemoryFileKind.Dax })
                {
                    StepErrno = Errno.EINVAL;
                    break;
                }

                ulong end = Math.Min(region.Addresses.End, _range.End);
                foreach (Pause pause in MigratePart(new AddressRange(at, end - at)))
                {
                    yield return pause;
                }

                at = end;
            }
        }
        finally
        {
            State = MigrationState.Completed;
            _space.Lock.Release(hold);
            Memory.HandleProgress();
        }

        Errno = TakeStepErrno(out Errno errno) ? errno : MigratedCount == 0 ? Errno.ENOENT : Errno.Success;
    }

    private IEnumerable<Pause> MigratePart(AddressRange part)
    {
        MigrationSet set = new(this, Device.Driver.Owner);
        try
        {
            State = MigrationState.Collecting;
            foreach (Pause pause in set.Collect(_space, part, _select, told: part))
            {
                yield return pause;
            }

            if (StepErrno != Errno.Success)
            {
                yield break;
            }

            State = MigrationState.Isolating;
            foreach (Pause pause in set.Isolate())
            {
                yield return pause;
            }

            State = MigrationState.Copying;
            foreach (Pause pause in _isToDevice ? set.CopyTo(Device) : set.CopyHome(Device))
            {
                yield return pause;
            }

            State = MigrationState.Moving;
            foreach (Pause pause in set.MovePages())
            {
                yield return pause;
            }

            State = MigrationState.Finalising;
            yield return "show pages in their places";
        }
        finally
        {
            set.FinishAll();
            MigratedCount += set.MigratedCount;
            if (_isToDevice)
            {
                Memory.Stats.MigratedToDevice += set.MigratedCount;
            }
            else
            {
                Memory.Stats.MigratedHome += set.MigratedCount;
            }
        }
    }
}

/// <summary>Brings all pages of a device home, wherever they are mapped (<c>migrate_device_range</c>).</summary>
public sealed class EvictOperation : SpaceOperation
{
    private readonly DeviceMemory _device;

    internal EvictOperation(MemorySystem memory, DeviceMemory device, Activity? activity)
        : base(memory, activity, $"{device.Driver.Name} evicts") => _device = device;

    /// <summary>Pages that came home.</summary>
    public int MigratedCount { get; private set; }

    /// <summary>Pages that somebody holds or has locked; they are still the device's.</summary>
    public int LeftCount { get; private set; }

    private protected override IEnumerable<Pause> Run()
    {
        MigrationSet set = new(this, _device.Driver.Owner);
        try
        {
            foreach (PageFrame frame in _device.InUse())
            {
                set.CollectFrame(frame);
            }

            yield return "isolate the device's pages";
            foreach (Pause pause in set.Isolate())
            {
                yield return pause;
            }

            foreach (Pause pause in set.CopyHome(_device))
            {
                yield return pause;
            }

            foreach (Pause pause in set.MovePages())
            {
                yield return pause;
            }
        }
        finally
        {
            set.FinishAll();
            MigratedCount = set.MigratedCount;
            LeftCount = _device.PageCount - _device.FreePages;
            Memory.Stats.MigratedHome += MigratedCount;
            Memory.HandleProgress();
        }

        TakeStepErrno(out Errno errno);
        Errno = errno;
    }
}
